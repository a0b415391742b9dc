//! What a `.cu` header allows its kernels:
//! `// budget: <prefix of kernel names> <N> registers[, <M> bytes of shared memory]`.

use crate::ptxas::Kernel;

/// One line. The longest prefix that fits a kernel's name counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    prefix: String,
    registers: u32,
    /// Declared statically; dynamic shared memory is the launcher's to bound.
    shared_bytes: u32,
}

/// The budgets of a source.
pub(crate) fn of(source: &str) -> Result<Vec<Budget>, String> {
    let lines = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("// budget:"));
    let budgets: Vec<Budget> = lines.map(read).collect::<Result<_, _>>()?;
    match budgets.is_empty() {
        true => Err("states no budget".to_owned()),
        false => Ok(budgets),
    }
}

fn read(line: &str) -> Result<Budget, String> {
    let wrong = || format!("{line:?} is not `PREFIX N registers[, M bytes of shared memory]`");
    let (first, rest) = line.split_once(',').unwrap_or((line, ""));
    let words: Vec<&str> = first.split_whitespace().collect();
    let [prefix, registers, "registers"] = words[..] else {
        return Err(wrong());
    };
    let shared = rest.trim();
    let shared_bytes = match shared.strip_suffix(" bytes of shared memory") {
        None if shared.is_empty() => 0,
        None => return Err(wrong()),
        Some(number) => number.parse().map_err(|_| wrong())?,
    };
    Ok(Budget {
        prefix: prefix.to_owned(),
        registers: registers.parse().map_err(|_| wrong())?,
        shared_bytes,
    })
}

/// What a kernel takes beyond its budget, in words.
pub(crate) fn exceeded(kernel: &Kernel, budgets: &[Budget]) -> Option<String> {
    let (name, target) = (&kernel.name, &kernel.target);
    let fits = budgets
        .iter()
        .filter(|budget| name.starts_with(&budget.prefix));
    let Some(budget) = fits.max_by_key(|budget| budget.prefix.len()) else {
        return Some(format!("{name}: no budget line has a prefix of this name"));
    };
    let mut over = Vec::new();
    let mut compare = |what, takes: u32, may: u32| {
        if takes > may {
            over.push(format!("{takes} {what} of {may}"));
        }
    };
    compare("registers", kernel.registers, budget.registers);
    compare(
        "bytes of shared memory",
        kernel.shared_bytes,
        budget.shared_bytes,
    );
    compare("bytes of spills", kernel.spill_bytes, 0);
    (!over.is_empty()).then(|| format!("{name} on {target}: {}", over.join(", ")))
}

#[test]
fn spills_and_numbers_over_the_budget_are_named() {
    let source =
        "// budget: a_ 40 registers, 128 bytes of shared memory\n// budget: a_big_ 60 registers\n";
    let budgets = of(source).unwrap();
    let kernel = |name: &str, registers, spill_bytes, shared_bytes| Kernel {
        name: name.to_owned(),
        target: "sm_80".to_owned(),
        registers,
        spill_bytes,
        shared_bytes,
    };
    assert_eq!(exceeded(&kernel("a_x", 40, 0, 128), &budgets), None);
    assert_eq!(exceeded(&kernel("a_big_x", 60, 0, 0), &budgets), None);
    for (kernel, words) in [
        (kernel("a_x", 41, 0, 0), "41 registers of 40"),
        (kernel("a_x", 1, 4, 0), "4 bytes of spills of 0"),
        (kernel("a_big_x", 1, 0, 8), "8 bytes of shared memory of 0"),
        (kernel("b_x", 1, 0, 0), "no budget"),
    ] {
        let said = exceeded(&kernel, &budgets).unwrap();
        assert!(said.contains(words), "{said}");
    }
    assert!(of("// nothing").is_err());
    assert!(of("// budget: a_ many registers").is_err());
    assert!(of("// budget: a_ 4 registers, some more").is_err());
}
