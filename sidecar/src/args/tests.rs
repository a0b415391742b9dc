//! What the command line makes of words, and its defaults.

use super::*;
use clap::CommandFactory;

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

#[test]
fn quotas_are_exact_kubernetes_quantities() {
    let line = "x plan m --tensor-parallel-size 3 --quota 0=300Mi --quota 1=1G --quota 2=1.5Ki";
    let Command::Plan(args) = parse(line).unwrap().command else {
        panic!()
    };
    let bytes: Vec<u64> = args
        .memory
        .quota
        .iter()
        .map(|quota| quota.bytes.get())
        .collect();
    assert_eq!(bytes, [300 << 20, 1_000_000_000, 1536]);
    for line in [
        "x plan m --quota 300Mi",
        "x plan m --quota a=300Mi",
        "x plan m --quota 0=300MB",
        "x plan m --quota 0=-1Gi",
        "x plan m --quota 0=0",
        "x plan m --tensor-parallel-size 0",
        "x plan m --tensor-parallel-size 17",
        "x plan m --dtype int3",
        "x plan",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn a_config_file_replaces_the_flags_about_memory() {
    parse("x serve --config f --port 1").unwrap();
    parse("x serve m --port 1").unwrap();
    for line in [
        "x serve",
        "x serve m --config f",
        "x serve --config f --dtype float32",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
}

#[test]
fn defaults_are_those_of_the_resource() {
    let Command::Serve(args) = parse("x serve m").unwrap().command else {
        panic!()
    };
    assert_eq!(args.memory.max_num_seqs, 64);
    assert_eq!(args.memory.max_num_batched_tokens, 2048);
    assert_eq!(args.memory.block_size, 16);
    assert!(args.http.host.is_loopback());
    let HttpArgs {
        port,
        admin_port,
        probe_port,
        ..
    } = args.http;
    assert_eq!((port, admin_port, probe_port), (8000, 8001, 8002));
    assert_eq!(args.http.max_body_size.get(), 4 << 20);
    assert_eq!(args.generation_config, GenerationConfig::Auto);
    let line = "x serve --config f --generation-config vllm";
    let Command::Serve(args) = parse(line).unwrap().command else {
        panic!()
    };
    assert_eq!(args.generation_config, GenerationConfig::Vllm);
    assert!(parse("x serve m --generation-config ./folder").is_err());
}
