//! With the feature `driver`: makes a fatbin of every `.cu` file where nvcc is found, and lists for
//! the crate what there is to embed. Without nvcc the crate builds, and says so when asked to launch.
//!
//! `PLIMSOLL_NVCC` names an nvcc (`none`: do without). `PLIMSOLL_FATBINS` names the folder where
//! fatbins are kept, also ones that were made elsewhere; by default it lies in the target folder.

#[cfg(feature = "driver")]
#[path = "build/images.rs"]
mod images;
#[cfg(feature = "driver")]
#[path = "build/nvcc.rs"]
mod nvcc;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    #[cfg(feature = "driver")]
    embed();
}

#[cfg(feature = "driver")]
fn embed() {
    use std::env;
    use std::fmt::Write as _;
    use std::fs;
    use std::path::PathBuf;

    use images::Image;
    use nvcc::{Nvcc, NvccError};

    println!("cargo:rerun-if-changed=src");
    println!("cargo:rerun-if-env-changed=PLIMSOLL_NVCC");
    println!("cargo:rerun-if-env-changed=PLIMSOLL_FATBINS");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let folder = match env::var_os("PLIMSOLL_FATBINS") {
        Some(folder) => PathBuf::from(folder),
        // target/PROFILE/build/PACKAGE/out
        None => out
            .ancestors()
            .nth(4)
            .expect("OUT_DIR lies in a target folder")
            .join("fatbins"),
    };
    let ops = images::ops(&PathBuf::from("src")).expect("the sources are readable");
    match Nvcc::find() {
        Ok(nvcc) => {
            if let Err(error) = images::make(&ops, &nvcc, &folder) {
                panic!("{error}");
            }
        }
        Err(NvccError::Absent) => {
            println!("cargo:warning=built without nvcc: {}", NvccError::Absent)
        }
        // An nvcc that was asked for and is of no use is an error; one that happens to lie around is not.
        Err(error) if env::var_os("PLIMSOLL_NVCC").is_some() => panic!("{error}"),
        Err(error) => println!("cargo:warning={error}"),
    }
    let mut list = String::from("&[\n");
    let mut release = None;
    for op in &ops {
        let state = match images::find(op, &folder) {
            Image::Made { fatbin, ptxas } => {
                release = release.max(images::release(&ptxas));
                let path = fatbin.canonicalize().unwrap_or(fatbin);
                // Its header is read in words.
                format!(
                    "State::Embedded({{ \
                     #[repr(C, align(16))] struct Aligned<B: ?Sized>(B); \
                     static IMAGE: &Aligned<[u8]> = &Aligned(*include_bytes!({path:?})); \
                     &IMAGE.0 }})"
                )
            }
            Image::Stale(found) => format!("State::Stale({found:?})"),
            Image::Absent => "State::Absent".to_owned(),
        };
        let (name, hash) = (&op.name, &op.hash);
        writeln!(
            list,
            "    Image {{ op: {name:?}, sources: {hash:?}, state: {state} }},"
        )
        .expect("a text grows");
    }
    list.push(']');
    fs::write(out.join("images.rs"), list).expect("OUT_DIR is writable");
    fs::write(out.join("release.rs"), format!("{release:?}")).expect("OUT_DIR is writable");
    fs::write(out.join("fatbins.txt"), folder.to_string_lossy().as_bytes())
        .expect("OUT_DIR is writable");
}
