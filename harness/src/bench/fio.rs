//! fio: its command lines, and what is read from its report.

use cowbird_host::error::{HarnessError, HarnessResult};
use serde::{Deserialize, Serialize};

/// A job of fio. All of them bypass the page cache and submit through libaio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// `randwrite`, `write`, `randread` or `read`.
    pub rw: &'static str,
    /// Bytes of one I/O, as fio writes them.
    pub block: &'static str,
    /// I/Os in flight.
    pub depth: u32,
    /// File or device.
    pub target: String,
    /// Size of the region, MiB.
    pub size_mib: u32,
    /// Stops after so many I/Os, if given; else the region is gone through once.
    pub ios: Option<u32>,
    /// Decides the order of random I/O.
    pub seed: u64,
}

/// What a job measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measured {
    /// I/Os per second.
    pub iops: f64,
    /// 99th percentile of the completion latency, us.
    pub p99_us: f64,
}

impl Measured {
    /// What lies half way between.
    #[must_use]
    pub fn mean(self, other: Self) -> Self {
        Self {
            iops: f64::midpoint(self.iops, other.iops),
            p99_us: f64::midpoint(self.p99_us, other.p99_us),
        }
    }
}

impl Job {
    /// The arguments of fio.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec![
            "--name=bench".to_owned(),
            "--output-format=json".to_owned(),
            "--ioengine=libaio".to_owned(),
            "--direct=1".to_owned(),
            "--allow_file_create=0".to_owned(),
            format!("--rw={}", self.rw),
            format!("--bs={}", self.block),
            format!("--iodepth={}", self.depth),
            format!("--filename={}", self.target),
            format!("--size={}m", self.size_mib),
            format!("--randseed={}", self.seed),
        ];
        if let Some(ios) = self.ios {
            arguments.push(format!("--number_ios={ios}"));
        }
        arguments
    }

    /// The job that fills a new file, for the others to overwrite.
    #[must_use]
    pub fn fill(target: &str, size_mib: u32) -> Vec<String> {
        [
            "--name=fill",
            "--output-format=json",
            "--rw=write",
            "--bs=1m",
            "--end_fsync=1",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain([
            format!("--filename={target}"),
            format!("--size={size_mib}m"),
        ])
        .collect()
    }

    /// Reads fio's report of this job.
    ///
    /// # Errors
    /// When it is not one, or tells of an error.
    pub fn parse(&self, report: &str) -> HarnessResult<Measured> {
        let bad = |what: String| HarnessError::Tool {
            tool: "fio",
            detail: what,
            hint: "run in the guest",
        };
        // fio may print notes before the report.
        let json = report.find('{').map_or(report, |at| &report[at..]);
        let parsed: Report = serde_json::from_str(json)
            .map_err(|error| bad(format!("its report cannot be read: {error}")))?;
        let [job] = parsed.jobs.as_slice() else {
            return Err(bad(format!("{} jobs in its report", parsed.jobs.len())));
        };
        if job.error != 0 {
            return Err(bad(format!("error {} in its report", job.error)));
        }
        let direction = if self.rw.ends_with("read") {
            &job.read
        } else {
            &job.write
        };
        let p99 = direction.clat_ns.percentile.get(P99).copied();
        Ok(Measured {
            iops: direction.iops,
            p99_us: p99.ok_or_else(|| bad("no 99th percentile".into()))? as f64 / 1000.0,
        })
    }
}

/// How fio names the 99th percentile.
const P99: &str = "99.000000";

#[derive(Deserialize)]
struct Report {
    jobs: Vec<JobReport>,
}

#[derive(Deserialize)]
struct JobReport {
    error: i64,
    read: Direction,
    write: Direction,
}

#[derive(Deserialize)]
struct Direction {
    iops: f64,
    clat_ns: Latency,
}

#[derive(Deserialize)]
struct Latency {
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> Job {
        Job {
            rw: "randwrite",
            block: "4k",
            depth: 16,
            target: "/f".into(),
            size_mib: 8,
            ios: Some(100),
            seed: 7,
        }
    }

    #[test]
    fn a_report_is_read_in_the_direction_of_its_job() {
        let report = r#"note: something
            {"jobs": [{"error": 0,
              "read": {"iops": 0.0, "clat_ns": {}},
              "write": {"iops": 123.5, "clat_ns": {"percentile": {"99.000000": 2500}}}}]}"#;
        let measured = job().parse(report).unwrap();
        assert!((measured.iops - 123.5).abs() < f64::EPSILON);
        assert!((measured.p99_us - 2.5).abs() < f64::EPSILON);
        let reading = Job {
            rw: "read",
            ..job()
        };
        assert!(reading.parse(report).is_err(), "no percentile of reads");
    }

    #[test]
    fn a_failed_job_is_no_measurement() {
        let report = r#"{"jobs": [{"error": 5, "read": {"iops": 0.0, "clat_ns": {}},
            "write": {"iops": 1.0, "clat_ns": {"percentile": {"99.000000": 1}}}}]}"#;
        let error = job().parse(report).unwrap_err().to_string();
        assert!(error.contains("error 5"), "{error}");
        assert!(job().parse("nothing").is_err());
    }
}
