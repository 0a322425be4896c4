//! What runs of the harness leave and others may send back: results and bundles.

use std::path::PathBuf;

use cowbird_harness::bundle;
use cowbird_model::RunResults;
use cowbird_proto::message::Event;
use cowbird_session::plan::CellPlan;

use crate::target::{Kind, LIMIT_BYTES, MAX_BYTES, Target, repairs_nothing, same};

pub(super) const RESULTS: Target = Target {
    name: "results",
    reads: "results.json of a run (model, for xtask)",
    seeds: results_seeds,
    words: &[
        b"\"verdict\":\"pass\"",
        b"\"classes\":{\"torn\":1}",
        b"\"shard\":\"1/3\"",
        b"null",
        b"1e308",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_results,
};

pub(super) const PLAN: Target = Target {
    name: "plan",
    reads: "plan.json of a bundle (harness)",
    seeds: plan_seeds,
    words: &[
        b"\"trials\":",
        b"\"times\":4294967295",
        b"\"a write 1+1\"",
        b"\"snapshot\"",
        b"\"track\"",
        b"\"next\"",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_plan,
};

pub(super) const JOURNAL: Target = Target {
    name: "journal",
    reads: "the journal of a bundle (harness)",
    seeds: journal_seeds,
    words: &[
        b"{\"Heartbeat\":{\"uptime_ms\":1}}\n",
        b"{\"Log\":{\"line\":\"x\"}}\n",
        b"\n",
    ],
    max_bytes: MAX_BYTES,
    limit_bytes: LIMIT_BYTES,
    repair: repairs_nothing,
    check: check_journal,
};

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

// ---- results ----

/// By hand: what the code writes would be valid whatever it writes.
fn results_seeds() -> Vec<Vec<u8>> {
    let cell = r#"{"kernel":"bookworm-6.1-cloud","kernel_version":"6.1.0-1 6.1.9-1","case":"raw-writers",
"mutant":"no-revalidate","seed":7,"cpus":2,"first_attempt":null,"made_of":"00ff","verdict":"mismatch","reason":"3 blocks",
"notes":["a note"],"caught":true,"blocks_checked":4096,"blocks_bad":3,"classes":{"torn":3},
"phases":[{"name":"boot","seconds":1.5}],"seconds":20.25,"trace":null,"bundle":null}"#;
    vec![format!(r#"{{"cells_expected":1,"seed":42,"shard":"1/3","cells":[{cell}]}}"#).into()]
}

/// All seconds. serde_json reads a number with a point to within its last bit, no better.
fn times(results: &RunResults) -> impl Iterator<Item = f64> + '_ {
    let cells = results.cells.iter();
    cells.flat_map(|cell| {
        let phases = cell.phases.iter().map(|phase| phase.seconds);
        phases.chain([cell.seconds])
    })
}

fn without_times(results: &RunResults) -> RunResults {
    let mut results = results.clone();
    for cell in &mut results.cells {
        cell.seconds = 0.0;
        for phase in &mut cell.phases {
            phase.seconds = 0.0;
        }
    }
    results
}

fn check_results(input: &[u8]) -> Result<Kind, String> {
    let results: RunResults = match serde_json::from_slice(input) {
        Ok(results) => results,
        Err(error) => return Ok(Kind::refused(error)),
    };
    let again: RunResults = serde_json::from_slice(&json(&results))
        .map_err(|error| format!("written again, it is refused: {error}"))?;
    same(
        "written again",
        &without_times(&again),
        &without_times(&results),
    )?;
    for (again, first) in times(&again).zip(times(&results)) {
        if (again - first).abs() > first.abs() * 1e-12 {
            return Err(format!("written again, {first} s are {again} s"));
        }
    }
    Ok(Kind::accepted(&[
        results.cells.len() as u64,
        results.cells_expected,
        u64::from(results.shard.is_some()),
    ]))
}

// ---- bundles ----

/// A bundle of this process, in a folder that the one who started it removes.
fn file(name: &str, content: &[u8]) -> Result<PathBuf, String> {
    let folder = std::env::temp_dir().join(format!("cowbird-fuzz-{}", std::process::id()));
    let write = || {
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), content)
    };
    write().map_err(|error| format!("cannot write {}: {error}", folder.display()))?;
    Ok(folder)
}

fn plan_seeds() -> Vec<Vec<u8>> {
    let second = r#"{"secs":1,"nanos":0}"#;
    let plan = |script_runs: &str| {
        format!(
            r#"{{"kernel_name":"bookworm-6.1-cloud","kernel_release":"6.1.0-0-cloud-amd64","vmlinuz":"/x",
"boot_modules":[["virtio","/x"]],"cowbird_ko":"/x","guest_init":"/x","cowbirdctl":"/x","tracer":"/x","tracer_trial":"/x",
"case":"raw-writers","workload":null,"soak_minutes":3,"cuts":5,"traced":true,"trials":[{script_runs}],"mutant":"no-drain","seed":7,
"accel":"tcg","cpus":2,"memory_mib":1024,"work_dir":"/x","bundle_dir":"/x","limits":{{"boot":{second},"request":{second},
"control":{second},"copy":{second},"stop":{second},"silence":{second},"shutdown":{second},"slowdown":1}},"tape":null}}"#
        )
        .into_bytes()
    };
    let script_run = r#"{"name":"x","script":{"volume_sectors":2053,"steps":["snapshot","a write 5+51","next"]},"times":2}"#;
    vec![plan(""), plan(script_run)]
}

fn check_plan(input: &[u8]) -> Result<Kind, String> {
    // A bundle is a folder, and files take long: only what is JSON of this shape gets one.
    if let Err(error) = serde_json::from_slice::<CellPlan>(input) {
        return Ok(Kind::refused(error));
    }
    let folder = file("plan.json", input)?;
    let plan = match bundle::read_plan(&folder) {
        Ok(plan) => plan,
        Err(error) => return Ok(Kind::refused(error)),
    };
    file("plan.json", &json(&plan))?;
    let again = bundle::read_plan(&folder).map_err(|error| error.to_string());
    let figures = [
        plan.input.script_runs().len() as u64,
        plan.boot_modules.len() as u64,
        u64::from(plan.input.workload().is_some()),
        u64::from(plan.tape.is_some()),
    ];
    same("written again", &again, &Ok(plan))?;
    Ok(Kind::accepted(&figures))
}

fn journal_seeds() -> Vec<Vec<u8>> {
    let text = r#"{"Heartbeat":{"uptime_ms":5}}
{"Log":{"line":"a line"}}
{"Ran":{"command":"cowbirdctl setup-snapshot","started_ns":3,"ended_ns":9}}
"#;
    vec![text.into()]
}

fn lines(events: &[Event]) -> Vec<u8> {
    events
        .iter()
        .flat_map(|event| json(event).into_iter().chain([b'\n']))
        .collect()
}

fn check_journal(input: &[u8]) -> Result<Kind, String> {
    // As above.
    let text = String::from_utf8_lossy(input);
    let parsed: Result<Vec<Event>, _> = text.lines().map(serde_json::from_str).collect();
    if let Err(error) = parsed {
        return Ok(Kind::refused(error));
    }
    let folder = file("journal.jsonl", input)?;
    let events = match bundle::read_journal(&folder) {
        Ok(events) => events,
        Err(error) => return Ok(Kind::refused(error)),
    };
    file("journal.jsonl", &lines(&events))?;
    let again = bundle::read_journal(&folder).map_err(|error| error.to_string());
    same("written again", &again, &Ok(events.clone()))?;
    Ok(Kind::accepted(&[events.len() as u64]))
}
