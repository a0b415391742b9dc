//! What ptxas says of a kernel: registers, spills, shared memory.

/// One kernel on one target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) target: String,
    pub(crate) registers: u32,
    pub(crate) spill_bytes: u32,
    pub(crate) shared_bytes: u32,
}

/// Every kernel of a log, in its order.
pub(crate) fn kernels(log: &str) -> Vec<Kernel> {
    let mut kernels: Vec<Kernel> = Vec::new();
    for line in log.lines() {
        if let Some(rest) = line.split("Compiling entry function '").nth(1) {
            let mut quoted = rest.split('\'');
            kernels.push(Kernel {
                name: quoted.next().unwrap_or_default().to_owned(),
                target: quoted.nth(1).unwrap_or_default().to_owned(),
                ..Kernel::default()
            });
        } else if let Some(kernel) = kernels.last_mut() {
            kernel.spill_bytes +=
                before(line, " bytes spill stores") + before(line, " bytes spill loads");
            kernel.registers = kernel.registers.max(before(line, " registers"));
            kernel.shared_bytes = kernel.shared_bytes.max(before(line, " bytes smem"));
        }
    }
    kernels
}

/// The number in front of `words`; 0 where they do not stand.
fn before(line: &str, words: &str) -> u32 {
    let Some((front, _)) = line.split_once(words) else {
        return 0;
    };
    let digits = front.rsplit(|c: char| !c.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[test]
fn a_log_is_read() {
    let log = "ptxas info    : Compiling entry function 'a_f32' for 'sm_80'\n\
        ptxas info    : Function properties for a_f32\n    \
        0 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads\n\
        ptxas info    : Used 50 registers, used 1 barriers, 128 bytes smem, 392 bytes cmem[0]\n\
        ptxas info    : Compiling entry function 'a_f32' for 'sm_90a'\n\
        ptxas info    : Used 28 registers, 392 bytes cmem[0]\n";
    let of = |target: &str, registers, spill_bytes, shared_bytes| Kernel {
        name: "a_f32".to_owned(),
        target: target.to_owned(),
        registers,
        spill_bytes,
        shared_bytes,
    };
    assert_eq!(
        kernels(log),
        [of("sm_80", 50, 24, 128), of("sm_90a", 28, 0, 0)]
    );
}
