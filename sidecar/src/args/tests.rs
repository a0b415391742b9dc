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
fn a_cache_of_integers_has_vllms_name_too_and_weights_have_no_such_type() {
    use plimsoll_planner::{Dtype, KvDtype};
    for (name, dtype) in [
        ("int8", KvDtype::Int8),
        ("int8_per_token_head", KvDtype::Int8),
        ("auto", KvDtype::Float16),
        ("bfloat16", KvDtype::BFloat16),
    ] {
        let line = format!("x plan m --kv-cache-dtype {name}");
        let Command::Plan(args) = parse(&line).unwrap().command else {
            panic!()
        };
        let found = args.memory.kv_cache_dtype.resolve(Dtype::Float16);
        assert_eq!(found, dtype, "{name}");
    }
    assert!(parse("x plan m --dtype int8").is_err());
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

#[test]
fn a_negative_number_is_refused_as_a_value_of_its_flag() {
    use clap::error::ErrorKind::{InvalidValue, UnknownArgument, ValueValidation};
    let of_numbers = [
        "N",
        "TOKENS",
        "SECONDS",
        "QUANTITY",
        "SHARE",
        "RANK=QUANTITY",
    ];
    let ports = ["port", "admin-port", "probe-port"];
    let mut walked = 0;
    for command in Cli::command().get_subcommands() {
        // `merge` names its model by a flag.
        let model = command.get_positionals().next().map_or("", |_| " m");
        for arg in command.get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            let names = arg.get_value_names().unwrap_or_default();
            let is_number = names.iter().any(|name| of_numbers.contains(&name.as_str()))
                || ports.contains(&long)
                || long.ends_with("timeout");
            if !is_number || !arg.get_action().takes_values() {
                continue;
            }
            walked += 1;
            for value in ["-1", "-1Gi"] {
                let quantity = names.iter().any(|name| name.contains("QUANTITY"));
                if value == "-1Gi" && !quantity {
                    continue;
                }
                let line = format!("x {}{model} --{long} {value}", command.get_name());
                let kind = parse(&line).unwrap_err().kind();
                assert_ne!(kind, UnknownArgument, "{line}");
                assert!(
                    matches!(kind, InvalidValue | ValueValidation),
                    "{line}: {kind}"
                );
            }
        }
    }
    assert!(walked >= 35, "{walked}");
}

#[test]
fn a_served_name_is_what_the_resource_takes() {
    let crd = plimsoll_crds::v1alpha1::schema::crd();
    let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    let model = &root["spec"]["properties"]["model"]["properties"];
    let rule = &model["servedNames"]["items"];
    assert_eq!(rule["pattern"], values::NAME_PATTERN);
    assert_eq!(
        (&rule["minLength"], &rule["maxLength"]),
        (&1.into(), &values::NAME_CHARACTERS.into())
    );
    let long = "a".repeat(values::NAME_CHARACTERS);
    for name in ["a", "7b", "org/Model-1.5:q4@x+y_z", &long] {
        assert_eq!(served_name(name).as_deref(), Ok(name));
    }
    let longer = format!("{long}a");
    for name in [
        "", "\n", "a\nb", "-a", "/a", ".a", "a b", "é", "aé", &longer,
    ] {
        assert!(served_name(name).is_err(), "{name:?}");
    }
}

#[test]
fn the_help_of_isa_names_what_it_takes_in_both_spellings() {
    let mut cli = Cli::command();
    let serve = cli.find_subcommand_mut("serve").unwrap();
    let help = serve.render_long_help().to_string();
    for isa in Isa::ALL {
        assert!(help.contains(isa.name()), "{isa}: {help}");
        for name in [isa.name().to_owned(), isa.name().replace('-', "")] {
            let Command::Serve(args) = parse(&format!("x serve m --isa {name}")).unwrap().command
            else {
                panic!()
            };
            assert_eq!(args.engine.isa, Some(isa));
        }
    }
    let error = parse("x serve m --isa sse9").unwrap_err().to_string();
    assert!(error.contains("avx512-bf16"), "{error}");
}

#[test]
fn two_equal_ports_contradict_each_other_unless_they_are_any() {
    let check = |line: &str| {
        let Command::Serve(args) = parse(&format!("x serve m {line}")).unwrap().command else {
            panic!()
        };
        args.http.check()
    };
    assert_eq!(check(""), Ok(()));
    assert_eq!(check("--port 0 --admin-port 0 --probe-port 0"), Ok(()));
    for (line, one, other) in [
        ("--port 8001", "--admin-port: 8001", "--port"),
        ("--port 8002", "--probe-port: 8002", "--port"),
        ("--admin-port 8002", "--probe-port: 8002", "--admin-port"),
    ] {
        let error = check(line).unwrap_err();
        assert!(error.starts_with(one), "{error}");
        assert!(
            error.contains(&format!("the port of {other} already")),
            "{error}"
        );
    }
}

#[test]
fn a_share_out_of_range_is_refused_before_a_model_is_read() {
    for share in ["0", "0.04", "1.5", "NaN", "-1", "much"] {
        let error = parse(&format!("x plan m --gpu-memory-utilization {share}")).unwrap_err();
        let message = error.to_string();
        assert!(message.contains("is not between 0.05 and 1"), "{message}");
    }
    parse("x plan m --gpu-memory-utilization 0.05").unwrap();
    parse("x plan m --gpu-memory-utilization 1").unwrap();
}

#[test]
fn an_adapter_has_a_folder_and_a_scale_in_words() {
    let read = |text: &str| {
        let line = ["x", "plan", "m", "--adapter", text];
        match Cli::try_parse_from(line)?.command {
            Command::Plan(args) => Ok::<_, clap::Error>(args.adapters),
            _ => panic!("not a plan"),
        }
    };
    for (text, folder, scale) in [
        ("a=./b", "./b", 1.0),
        ("a=./b:merge", "./b", 1.0),
        ("a=./b,scale=0.5", "./b", 0.5),
        ("a=./b:merge,scale=-2", "./b", -2.0),
        ("a=./b,c", "./b,c", 1.0),
        ("a=./b:dynamic", "./b", 1.0),
        ("a=./b:dynamic,scale=2", "./b", 2.0),
    ] {
        let adapters = read(text).unwrap();
        let dynamic = adapters.dynamic();
        assert_eq!(dynamic.len(), usize::from(text.contains(":dynamic")));
        let all = adapters.merged().into_iter().chain(dynamic);
        let adapter = all.last().unwrap();
        let found = (
            adapter.name.as_str(),
            adapter.path.to_str(),
            adapter.scale.0,
        );
        assert_eq!(found, ("a", Some(folder), scale), "{text}");
    }
    for text in [
        "a=./b,scale=0",
        "a=./b,scale=nan",
        "a=./b,scale=inf",
        "a=./b,scale=1e9",
        "a=./b,scale=",
        "a=:dynamic",
        "a=,scale=2",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn a_weights_root_is_a_folder_that_is_there() {
    let folder = crate::weights::testing::TempFolder::new();
    folder.write("weights", "");
    let check = |root: &std::path::Path| {
        let line = ["x", "serve", "m", "--weights-root"].map(std::ffi::OsStr::new);
        let line = line.into_iter().chain([root.as_os_str()]);
        match Cli::try_parse_from(line).unwrap().command {
            Command::Serve(args) => args.http.check(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(check(folder.path()), Ok(()));
    for (name, why) in [("weights", "is no folder"), ("away", "No such file")] {
        let root = folder.path().join(name);
        let error = check(&root).unwrap_err();
        let start = format!("--weights-root: {}: {why}", root.display());
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn a_folder_for_adapters_has_room_for_them_planned_unless_a_number_is_given() {
    let room = |line: &str| match parse(line).unwrap().command {
        Command::Serve(args) => {
            let roots = &args.http.adapter_root;
            args.memory
                .with_room_for(&args.adapters, roots)
                .max_adapters
        }
        Command::Plan(args) => {
            let roots = &args.adapter_root;
            args.memory
                .with_room_for(&args.adapters, roots)
                .max_adapters
        }
        other => panic!("{other:?}"),
    };
    let given = " --adapter a=/a:dynamic --adapter b=/b --adapter c=/c:dynamic";
    let more = (0..5).map(|at| format!(" --adapter x{at}=/x:dynamic"));
    let more: String = more.collect();
    for (flags, slots) in [
        (String::new(), None),
        (given.to_owned(), None),
        (" --adapter-root /a".to_owned(), Some(4)),
        (" --adapter-root /a --max-adapters 2".to_owned(), Some(2)),
        (" --adapter-root /a --max-adapters 0".to_owned(), Some(0)),
        (" --adapter-root /a".to_owned() + given, Some(4)),
        (" --adapter-root /a".to_owned() + given + &more, Some(7)),
    ] {
        for command in ["serve", "plan"] {
            assert_eq!(
                room(&format!("x {command} m{flags}")),
                slots,
                "{command}{flags}"
            );
        }
    }
}
