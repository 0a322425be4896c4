//! Workloads, in the words of a case: started, waited for, told of the instant, ended.

use std::time::{Duration, Instant};

use cowbird_proto::message::{
    Chase, GoldenFile, Observation, PerformSpec, Reply, Request, WorkloadId, WorkloadSpec,
    WorkloadState,
};

use super::{CaseError, CaseResult, GuestSession, unexpected};

/// Pause between two looks at how far a workload is.
const WORKLOAD_POLL: Duration = Duration::from_millis(100);

/// A running workload.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its number.
    pub id: WorkloadId,
    /// Its golden files.
    pub golden: Vec<GoldenFile>,
}

impl GuestSession<'_, '_> {
    /// Starts a workload.
    pub async fn start_workload(&mut self, spec: WorkloadSpec) -> CaseResult<Workload> {
        let request = Request::StartWorkload { spec: spec.clone() };
        let reply = self.prepare(request).await?;
        match reply {
            Reply::WorkloadStarted { id, golden } => {
                self.note_workload(id, &spec);
                Ok(Workload { id, golden })
            }
            reply => Err(unexpected(&reply)),
        }
    }

    /// How far a workload is; one that failed is an error.
    pub async fn workload(&mut self, workload: &Workload) -> CaseResult<WorkloadState> {
        let request = Request::WorkloadStatus { id: workload.id };
        let limit = self.limits.request;
        self.workload_state(request, limit).await
    }

    /// Waits until a workload has done enough.
    pub async fn wait_until(
        &mut self,
        workload: &Workload,
        what: &str,
        limit: Duration,
        enough: impl Fn(&WorkloadState) -> bool,
    ) -> CaseResult<WorkloadState> {
        let limit = limit * self.limits.slowdown;
        let deadline = Instant::now() + limit;
        loop {
            let state = self.workload(workload).await?;
            if enough(&state) {
                return Ok(state);
            }
            if Instant::now() > deadline {
                let reason = format!("the workload did not reach \"{what}\" within {limit:?}");
                return Err(self.vm.hang(format!("{reason}: {state:?}")).await.into());
            }
            self.vm.pause(WORKLOAD_POLL).await?;
        }
    }

    /// Waits until a workload has written so much more than `written` says, and renews that.
    pub async fn wait_for_more(
        &mut self,
        workload: &Workload,
        written: &mut u64,
        bytes: u64,
        limit: Duration,
    ) -> CaseResult<()> {
        let goal = *written + bytes;
        let state = self
            .wait_until(workload, "wrote some more", limit, |state| {
                state.bytes_written >= goal
            })
            .await?;
        *written = state.bytes_written;
        Ok(())
    }

    /// Tells a workload that the snapshot instant has passed, and what its racing readers may read.
    pub async fn epoch_passed(
        &mut self,
        workload: &Workload,
        chase: Option<Chase>,
    ) -> CaseResult<()> {
        self.prepare(Request::EpochPassed {
            id: workload.id,
            chase,
        })
        .await
        .map(|_| ())
    }

    /// Ends a workload.
    pub async fn stop_workload(&mut self, workload: &Workload) -> CaseResult<WorkloadState> {
        let request = Request::StopWorkload { id: workload.id };
        let limit = self.limits.stop;
        self.workload_state(request, limit).await
    }

    async fn workload_state(
        &mut self,
        request: Request,
        limit: Duration,
    ) -> CaseResult<WorkloadState> {
        let reply = self.expect(request, limit).await?;
        let Reply::Workload(state) = reply else {
            return Err(unexpected(&reply));
        };
        match &state.error {
            None => Ok(state),
            // The origin's I/O never fails because of a snapshot, and neither do its reads.
            Some(error) => Err(CaseError::Failed(format!("the workload failed: {error}"))),
        }
    }

    /// Does the tasks of one stage of a script; gives the snapshot reads that differ from a second one.
    pub async fn perform(&mut self, spec: PerformSpec) -> CaseResult<Vec<Observation>> {
        let request = Request::Perform { spec };
        match self.expect(request, self.limits.copy).await? {
            Reply::Performed(observations) => Ok(observations),
            reply => Err(unexpected(&reply)),
        }
    }
}
