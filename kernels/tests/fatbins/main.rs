//! The embedded kernels: every one compiled for every target, without spills, within the registers
//! and the shared memory that its header states; and what becomes of a build whose parts are wrong.
#![expect(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod budget;
#[expect(dead_code, reason = "the build script uses all of it")]
#[path = "../../build/images.rs"]
mod images;
#[path = "../../build/nvcc.rs"]
mod nvcc;
mod ptxas;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use images::Image;
use nvcc::{Nvcc, NvccError};
use plimsoll_kernels::gpu::{GpuError, image};

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Where the build script keeps the fatbins.
fn folder() -> PathBuf {
    let path = Path::new(env!("OUT_DIR")).join("fatbins.txt");
    PathBuf::from(fs::read_to_string(path).unwrap())
}

/// A folder of this test's own, empty.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join("fatbins")
        .join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A program that prints `said` and ends with `code`.
fn program(folder: &Path, name: &str, said: &str, code: i32) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, format!("#!/bin/sh\necho '{said}'\nexit {code}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn every_kernel_is_compiled_for_every_target_within_its_budget() {
    let ops = images::ops(&sources()).unwrap();
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for op in &ops {
        let Image::Made { ptxas, .. } = images::find(op, &folder()) else {
            panic!(
                "{} has no fatbin: install nvcc (kernels/setup-nvcc) and build again",
                op.name
            );
        };
        let source = fs::read_to_string(&op.source).unwrap();
        let budgets = budget::of(&source).unwrap_or_else(|error| panic!("{}: {error}", op.name));
        let kernels = ptxas::kernels(&fs::read_to_string(ptxas).unwrap());
        let exported: BTreeSet<&str> = kernels.iter().map(|kernel| kernel.name.as_str()).collect();
        assert!(!exported.is_empty(), "{} has no kernel", op.name);
        let targets: BTreeSet<&str> = kernels
            .iter()
            .map(|kernel| kernel.target.as_str())
            .collect();
        let wanted: BTreeSet<String> = nvcc::TARGETS.iter().map(|t| format!("sm_{t}")).collect();
        assert_eq!(targets.len(), wanted.len(), "{}: {targets:?}", op.name);
        assert_eq!(kernels.len(), exported.len() * wanted.len(), "{}", op.name);
        seen += kernels.len();
        wrong.extend(
            kernels
                .iter()
                .filter_map(|kernel| budget::exceeded(kernel, &budgets)),
        );
    }
    println!("{} ops, {seen} kernels over all targets", ops.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_program_carries_every_op_and_knows_its_targets() {
    let ops = images::ops(&sources()).unwrap();
    let names: Vec<&str> = ops.iter().map(|op| op.name.as_str()).collect();
    let carried: Vec<&str> = image::all().iter().map(|image| image.op).collect();
    assert_eq!(carried, names);
    assert_eq!(image::TARGETS, nvcc::TARGETS);
    assert_eq!(image::VIRTUAL_TARGET.to_string(), nvcc::VIRTUAL_TARGET);
    for (image, op) in image::all().iter().zip(&ops) {
        assert_eq!(
            image.sources, op.hash,
            "{} was embedded from other sources",
            op.name
        );
        // A fatbin's magic number.
        let bytes = image::find(image.op, 90).unwrap();
        assert_eq!(bytes[..4], 0xBA55_ED50_u32.to_le_bytes(), "{}", op.name);
    }
}

#[test]
fn a_card_without_code_is_refused_before_anything_is_loaded() {
    for capability in [80, 86, 89, 90, 100, 120] {
        image::check_card("rms_norm", capability).unwrap();
    }
    let error = image::check_card("rms_norm", 75).unwrap_err();
    assert!(
        matches!(error, GpuError::NoCode { capability: 75, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("sm_80"), "{error}");
}

#[test]
fn a_missing_and_a_stale_fatbin_are_told_apart() {
    let folder = scratch("stale");
    let op = images::ops(&sources()).unwrap().remove(0);
    assert_eq!(images::find(&op, &folder), Image::Absent);
    fs::write(
        folder.join(format!("{}-0123456789abcdef.fatbin", op.name)),
        "old",
    )
    .unwrap();
    assert_eq!(
        images::find(&op, &folder),
        Image::Stale("0123456789abcdef".to_owned())
    );
    for end in ["fatbin", "ptxas"] {
        fs::write(folder.join(format!("{}-{}.{end}", op.name, op.hash)), "new").unwrap();
    }
    assert!(matches!(images::find(&op, &folder), Image::Made { .. }));

    let stale = image::Image {
        op: "rms_norm",
        sources: "fedcba9876543210",
        state: image::State::Stale("0123456789abcdef"),
    };
    let error = image::bytes("rms_norm", Some(&stale))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("0123456789abcdef") && error.contains("fedcba9876543210"),
        "{error}"
    );
    let absent = image::Image {
        state: image::State::Absent,
        ..stale
    };
    for image in [Some(&absent), None] {
        let error = image::bytes("rms_norm", image).unwrap_err();
        assert!(
            matches!(error, GpuError::NoKernels { op: "rms_norm" }),
            "{error}"
        );
    }
}

#[test]
fn another_source_is_another_hash() {
    let folder = scratch("hash");
    fs::write(folder.join("shared.cuh"), "// one").unwrap();
    fs::write(folder.join("op.cu"), "// two").unwrap();
    let hash = || images::ops(&folder).unwrap().remove(0).hash;
    let first = hash();
    assert_eq!(hash(), first);
    fs::write(folder.join("shared.cuh"), "// changed").unwrap();
    let second = hash();
    fs::write(folder.join("op.cu"), "// changed").unwrap();
    let hashes = BTreeSet::from([first, second, hash()]);
    assert_eq!(hashes.len(), 3, "{hashes:?}");
}

#[test]
fn an_nvcc_of_the_wrong_version_or_none_is_named() {
    let folder = scratch("versions");
    let old = program(
        &folder,
        "old",
        "Cuda compilation tools, release 12.4, V12.4.131",
        0,
    );
    let error = Nvcc::at(&old).unwrap_err();
    assert!(matches!(error, NvccError::TooOld { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("12.4") && text.contains("12.8") && text.contains("setup-nvcc"),
        "{text}"
    );
    let odd = program(&folder, "odd", "gcc version 12.2.0", 0);
    assert!(matches!(Nvcc::at(&odd), Err(NvccError::DoesNotRun { .. })));
    assert!(matches!(
        Nvcc::at(&folder.join("none")),
        Err(NvccError::DoesNotRun { .. })
    ));
    let new = program(
        &folder,
        "new",
        "Cuda compilation tools, release 13.0, V13.0.88",
        0,
    );
    assert_eq!(Nvcc::at(&new).unwrap().release, "13.0");
}

#[test]
fn a_missing_host_compiler_and_a_wrong_kernel_are_told_apart() {
    let folder = scratch("compile");
    let nvcc = Nvcc::find().unwrap_or_else(|error| panic!("{error}"));
    let source = folder.join("fine.cu");
    fs::write(&source, "extern \"C\" __global__ void fine() {}\n").unwrap();
    let fatbin = folder.join("fine.fatbin");
    let error = nvcc
        .compile(&source, &fatbin, &["-ccbin", "/nonexistent/g++"])
        .unwrap_err();
    assert!(matches!(error, NvccError::NoHostCompiler { .. }), "{error}");
    assert!(error.to_string().contains("apt-get install g++"), "{error}");
    let wrong = folder.join("wrong.cu");
    fs::write(
        &wrong,
        "extern \"C\" __global__ void wrong() { nothing; }\n",
    )
    .unwrap();
    let error = nvcc.compile(&wrong, &fatbin, &[]).unwrap_err();
    assert!(matches!(error, NvccError::Failed { .. }), "{error}");
    assert!(error.to_string().contains("nothing"), "{error}");
    assert!(!fatbin.exists(), "a failed compilation leaves no fatbin");
}
