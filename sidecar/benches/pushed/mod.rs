//! Weights that are sent over loopback to the real program, beside a plain read of the same file and a
//! copy in memory of as many bytes.

use std::fs::{self, File};
use std::hint::black_box;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use plimsoll_planner::Dtype;
use plimsoll_sidecar::model::{Model, Pushable};
use serde_json::{Map, json};

use crate::served::{self, Served, answer};
use crate::{RUNS, Table, read};

/// What is read and sent at once.
const CHUNK: usize = 1 << 20;

pub(crate) const READ: &str = "plain read of the pushed file";
pub(crate) const COPY: &str = "copy in memory of the pushed bytes";
pub(crate) const PUSH: &str = "push over HTTP, all bodies";
pub(crate) const FINISH: &str = "finish of a push, probe and checksums";

/// One file with every tensor that a push needs; it goes with the value.
struct Sent(PathBuf);

impl Drop for Sent {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Measures pushes of all of a model's weights to an engine that serves it.
pub(crate) fn measure(
    table: &mut Table,
    (path, model): (&Path, &Model),
    dtype: Dtype,
    threads: usize,
) -> anyhow::Result<()> {
    let sent = write(model, dtype)?;
    let bytes = fs::metadata(&sent.0)?.len();
    let length = usize::try_from(bytes)?;
    let (from, mut to) = (vec![1_u8; length], vec![0_u8; length]);
    for _ in 0..RUNS {
        table.time(READ, |bytes| *bytes, || read(&sent.0));
        table.time(
            COPY,
            |()| bytes,
            || black_box(&mut to).copy_from_slice(black_box(&from)),
        );
    }
    drop((from, to));
    let served = start(path, dtype, threads);
    for _ in 0..RUNS {
        expect(&served.post("/start_weight_update", ""), "start");
        let push = || push(&served, &sent.0, bytes);
        table.time(PUSH, |_: &io::Result<()>| bytes, push)?;
        let finish = || served.post("/finish_weight_update", "");
        let finished = table.time(FINISH, |_| bytes, finish);
        expect(&finished, "finish");
    }
    Ok(())
}

/// The program on free ports, with a cache that is of no matter here.
fn start(path: &Path, dtype: Dtype, threads: usize) -> Served {
    let dtype = match dtype {
        Dtype::Float32 => "float32",
        Dtype::Float16 => "float16",
        Dtype::BFloat16 => "bfloat16",
    };
    let mut command = Served::command();
    command.arg(path).args(["--dtype", dtype]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--kv-cache-size", "64Mi", "--max-num-seqs", "4"]);
    // Floats have no place in blocks.
    command.args(["--control-api", "loopback", "--quantization", "none"]);
    let served = Served::launch(&mut command);
    served.wait_for("\"message\":\"ready\"");
    served
}

fn push(served: &Served, file: &Path, bytes: u64) -> io::Result<()> {
    let head = format!(
        "POST /update_weights HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/octet-stream\r\ncontent-length: {bytes}\r\n\r\n"
    );
    let mut stream = served::open(served.api, &head);
    let (mut file, mut chunk) = (File::open(file)?, vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            count => stream.write_all(&chunk[..count])?,
        }
    }
    let mut told = Vec::new();
    stream.read_to_end(&mut told)?;
    expect(&answer(&told), "a body");
    Ok(())
}

fn expect(answer: &served::Answer, what: &str) {
    assert_eq!(answer.status, 200, "{what}: {}", answer.body);
}

/// Every needed tensor in the type that the engine keeps matrices in, as a trainer has it: F32, or BF16
/// where that is a half.
fn write(model: &Model, dtype: Dtype) -> anyhow::Result<Sent> {
    let (name, width) = match dtype {
        Dtype::Float32 => ("F32", 4),
        Dtype::Float16 | Dtype::BFloat16 => ("BF16", 2),
    };
    let pushable = Pushable::of(model, dtype.into());
    let (mut header, mut end) = (Map::new(), 0);
    for tensor in pushable.needed() {
        let info = model.tensors.info(tensor);
        let info = info.ok_or_else(|| anyhow::anyhow!("the model has no {tensor}"))?;
        let (rows, cols) = info.rows_cols();
        let start = end;
        end += rows * cols * width;
        let entry = json!({"dtype": name, "shape": info.shape, "data_offsets": [start, end]});
        header.insert(tensor.clone(), entry);
    }
    let header = serde_json::to_vec(&header)?;
    let path = std::env::temp_dir().join(format!("plimsoll-pushed-{}", std::process::id()));
    let sent = Sent(path.with_extension("safetensors"));
    let mut file = BufWriter::with_capacity(CHUNK, File::create(&sent.0)?);
    file.write_all(&u64::try_from(header.len())?.to_le_bytes())?;
    file.write_all(&header)?;
    for tensor in pushable.needed() {
        let (rows, cols) = model
            .tensors
            .info(tensor)
            .map_or((0, 0), |it| it.rows_cols());
        let mut row = vec![0.0_f32; cols];
        for at in 0..rows {
            model.tensors.read_rows(tensor, at..at + 1, &mut row)?;
            for number in &row {
                let bytes = number.to_le_bytes();
                // The upper half of a float is a bfloat; to the last bit it is of no matter here.
                file.write_all(&bytes[4 - width..])?;
            }
        }
    }
    file.flush()?;
    Ok(sent)
}
