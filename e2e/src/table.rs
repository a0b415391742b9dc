//! The memory rows of a status as a table for people.

use plimsoll_crds::v1alpha1::InferenceDeployment;

/// One line per rank and pod, account by account, and the pods' host rows.
pub(crate) fn memory(object: &InferenceDeployment) -> String {
    let Some(memory) = object
        .status
        .as_ref()
        .and_then(|status| status.memory.as_ref())
    else {
        return "status.memory: nothing reported yet\n".to_owned();
    };
    let mut rows = vec![
        [
            "POD",
            "RANK",
            "ACCOUNT",
            "PLANNED",
            "RESERVED",
            "USED",
            "HIGH-WATER",
        ]
        .map(str::to_owned),
    ];
    for gpu in &memory.gpus {
        let rank = gpu.rank.to_string();
        for account in &gpu.accounts {
            rows.push([
                gpu.pod.clone(),
                rank.clone(),
                account.name.clone(),
                mebibytes(account.planned_bytes),
                mebibytes(account.reserved_bytes),
                mebibytes(account.used_bytes),
                mebibytes(account.high_water_bytes),
            ]);
        }
        let line = gpu.quota_bytes.map_or("no quota".to_owned(), |quota| {
            format!("of {} quota", mebibytes(quota))
        });
        rows.push([
            gpu.pod.clone(),
            rank,
            "driver".to_owned(),
            String::new(),
            line,
            mebibytes(gpu.driver_bytes),
            format!("other {}", signed_mebibytes(gpu.other_bytes)),
        ]);
    }
    for host in &memory.hosts {
        for account in &host.accounts {
            let mut row = std::array::from_fn(|_| String::new());
            row[0].clone_from(&host.pod);
            "host".clone_into(&mut row[1]);
            row[2].clone_from(&account.name);
            row[5] = mebibytes(account.used_bytes);
            rows.push(row);
        }
        let limit = host.limit_bytes.map_or("no limit".to_owned(), |limit| {
            format!("of {} limit", mebibytes(limit))
        });
        rows.push([
            host.pod.clone(),
            "host".to_owned(),
            "cgroup".to_owned(),
            String::new(),
            limit,
            mebibytes(host.cgroup_bytes),
            format!("other {}", signed_mebibytes(host.other_bytes)),
        ]);
    }
    aligned(&rows)
}

fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Mebibytes with one decimal.
pub(crate) fn mebibytes(bytes: u64) -> String {
    const TENTH: u64 = (1 << 20) / 10;
    let tenths = bytes / TENTH;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

/// Of a difference, which may be below zero.
fn signed_mebibytes(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "" };
    format!("{sign}{}", mebibytes(bytes.unsigned_abs()))
}
