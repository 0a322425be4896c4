//! Stops the replay of a tape at the culprit event: the last instruction before the disk takes the write from which a
//! wrong block's content came.
//!
//! The report of the cell names that write as an entry of the witness. While a replay stands still, one can see
//! whether the disk has taken it: its content is in the disk's file as soon as the guest has submitted it, and its entry
//! in the witness soon after. So the instruction that submits it is found by replaying with stops ([`Search`]). It
//! stands in the driver of the disk, and on its stack is who wrote.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cowbird_checks::mapped::{map, untrusted};
use cowbird_host::background::in_background;
use cowbird_host::error::{HarnessError, HarnessResult, PathContext};
use cowbird_host::files::CellFiles;
use cowbird_host::initramfs::COWBIRD_KO;
use cowbird_host::limits::TAPED_QMP_LIMIT;
use cowbird_host::nature::FurtherDisk;
use cowbird_host::scratch::Scratch;
use cowbird_model::{BadBlock, EntryKind, SECTOR_BYTES, WitnessLog};
use cowbird_proto::message::{Reply, Request};
use cowbird_session::machine::Machine;
use cowbird_session::plan::{CellPlan, TapePlan};
use cowbird_vm::command::{QMP_SOCKET, VmConfig};
use cowbird_vm::layout::Layout;
use cowbird_vm::process::Process;
use cowbird_vm::qmp::Qmp;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::bundle::read_bad_blocks;
use crate::planned::layout_of;

use super::search::Search;
use super::{Kept, unpack};

/// Pause at a stop, until what was submitted is in its file; and the pause of the last look, which nothing follows.
const LOOK: Duration = Duration::from_millis(3);
const LAST_LOOK: Duration = Duration::from_millis(500);

/// Pause between two questions whether a replay stands.
const POLL: Duration = Duration::from_millis(2);

/// A replay is at its next stop within this.
const STRETCH_LIMIT: Duration = Duration::from_secs(600);

/// Replays at most: four find it on an idle host.
const MAX_REPLAYS: u32 = 16;

/// Words of the stack that are looked at, and frames that are named.
const STACK_WORDS: u32 = 512;
const MAX_FRAMES: usize = 40;

/// Kernel addresses that can be code, with modules behind the kernel itself.
const KERNEL_CODE: std::ops::Range<u64> = 0xFFFF_FFFF_8100_0000..0xFFFF_FFFF_FF00_0000;

/// The write from which a wrong block's content came.
#[derive(Debug, Clone)]
pub struct Culprit {
    /// The block, and what is wrong with it.
    pub bad: BadBlock,
    /// Where the write is on the disk, bytes.
    at: u64,
    content: Vec<u8>,
    /// The witness has this size when the write is in it.
    logged_bytes: u64,
}

/// A replay that stands at the culprit event.
pub struct StoppedReplay {
    /// So many instructions are executed.
    pub instruction: u64,
    /// The next one, as the monitor prints it.
    pub next: String,
    /// The functions that it is called from, as far as the stack tells: what is no return address may be among them.
    pub stack: Vec<String>,
    /// Where gdb finds it.
    pub gdb: PathBuf,
    player: Player,
}

impl StoppedReplay {
    /// Waits until somebody ends it.
    pub async fn wait(&self) {
        self.player.process.wait().await;
    }
}

/// A replay that can be stopped.
struct Player {
    process: Process,
    qmp: Qmp,
    sockets: Scratch,
}

impl Culprit {
    /// That of the first wrong block for which there is one.
    ///
    /// # Errors
    /// When there is none, or the bundle has not all that names it.
    pub fn of(bundle: &Path) -> HarnessResult<Self> {
        let none = |detail: &str| HarnessError::Plan {
            detail: format!("{}: {detail}", bundle.display()),
        };
        let bad = read_bad_blocks(bundle)?.into_iter().find(|bad| {
            let culprit = bad.culprit.as_ref();
            culprit.is_some_and(|culprit| culprit.kind == EntryKind::Write)
        });
        let bad = bad.ok_or_else(|| {
            none("no wrong block has a write that its content came from; look at report.txt")
        })?;
        let files = CellFiles {
            dir: bundle.to_owned(),
        };
        let log = map(&files.witness())?;
        let entries = WitnessLog::parse(&log).map_err(|error| untrusted(&error))?;
        let wanted = bad.culprit.as_ref().map(|culprit| culprit.entry);
        let mut found = entries.entries().iter();
        let entry = found
            .find(|entry| Some(entry.index) == wanted)
            .ok_or_else(|| none("the witness does not have the write"))?;
        let end = entry.data.as_ptr_range().end as usize - log.as_ptr() as usize;
        Ok(Self {
            at: entry.sector.0 * SECTOR_BYTES as u64,
            content: entry.data.to_vec(),
            logged_bytes: end as u64,
            bad,
        })
    }

    /// Whether the disk has taken it.
    fn has_happened(&self, files: &CellFiles) -> HarnessResult<bool> {
        let (witness, origin) = (files.witness(), files.origin());
        if fs::metadata(&witness).on("look at", &witness)?.len() >= self.logged_bytes {
            return Ok(true);
        }
        let mut now = vec![0; self.content.len()];
        let file = File::open(&origin).on("open", &origin)?;
        file.read_exact_at(&mut now, self.at).on("read", &origin)?;
        Ok(now == self.content)
    }
}

/// Replays the tape of a plan until it stands at the culprit event; `progress` is told what is done.
///
/// # Errors
/// When the tape cannot be played, or the event is not in it.
pub async fn find(
    plan: &CellPlan,
    culprit: &Culprit,
    progress: &dyn Fn(&str),
) -> HarnessResult<StoppedReplay> {
    let layout = layout_of(plan).await?;
    if layout.further() == FurtherDisk::SecondVolume {
        let detail = "which of two volumes a wrong block is of is not known here".to_owned();
        return Err(HarnessError::Plan { detail });
    }
    let context = ReplayContext::prepare(plan, layout).await?;
    let mut search = Search::new();
    for replay in 1..=MAX_REPLAYS {
        if let Some(instruction) = search.found() {
            progress("at the event");
            let player = context.play().await?;
            let stands = player.run_to(instruction).await?;
            sleep(LAST_LOOK).await;
            if stands && !culprit.has_happened(&context.files)? {
                return context.stand(player, instruction).await;
            }
            search.widen();
            continue;
        }
        progress(&format!("search, replay {replay}"));
        let player = context.play().await?;
        for stop in search.stops() {
            if !player.run_to(stop).await? {
                break;
            }
            sleep(LOOK).await;
            let happened = culprit.has_happened(&context.files)?;
            search.learn(stop, happened);
            if happened {
                break;
            }
        }
        if search.is_empty() {
            break;
        }
    }
    let detail = "the replay ended and the disk never took the write: it is not the recorded cell";
    Err(HarnessError::Plan {
        detail: detail.into(),
    })
}

/// What all replays of a search share.
struct ReplayContext {
    plan: CellPlan,
    layout: Layout,
    files: CellFiles,
    config: VmConfig,
}

impl ReplayContext {
    async fn prepare(plan: &CellPlan, layout: Layout) -> HarnessResult<Self> {
        let mut plan = plan.clone();
        let plan = in_background(move || {
            let bundle = plan.tape.as_ref().and_then(|tape| tape.bundle.clone());
            let bundle = bundle.unwrap_or_default();
            fs::create_dir_all(&plan.work_dir).on("create", &plan.work_dir)?;
            unpack(&Kept::of(&bundle)?, &bundle, &mut plan)?;
            Ok(plan)
        })
        .await?;
        let files = CellFiles {
            dir: plan.work_dir.clone(),
        };
        let config = Machine::new(&plan, &layout, files.clone()).config();
        Ok(Self {
            plan,
            layout,
            files,
            config,
        })
    }

    /// Begins a replay, which stands before its first instruction.
    async fn play(&self) -> HarnessResult<Player> {
        let (layout, files, seed) = (self.layout, self.files.clone(), self.plan.seed);
        in_background(move || layout.create(&files, seed)).await?;
        let sockets = Scratch::for_sockets()?;
        let mut arguments = self.config.arguments(sockets.path());
        arguments.push("-S".into());
        let process = Process::start(&self.config, arguments)?;
        let qmp = Qmp::connect(&sockets.path().join(QMP_SOCKET), TAPED_QMP_LIMIT).await?;
        Ok(Player {
            process,
            qmp,
            sockets,
        })
    }

    /// What can be said of a replay that stands at the event, with gdb let in.
    async fn stand(&self, player: Player, instruction: u64) -> HarnessResult<StoppedReplay> {
        let emulator = &self.config.emulator;
        let gdb = emulator.folder_within(player.sockets.path())?.join("gdb");
        let device = format!("gdbserver unix:{},server=on,wait=off", gdb.display());
        player.qmp.monitor(&device).await?;
        let next = player.qmp.monitor("x /1i $pc").await?.trim().to_owned();
        // The monitor has the old name for the whole register.
        let words = format!("x /{STACK_WORDS}gx $esp");
        let mut addresses = addresses(&next, 1);
        for line in player.qmp.monitor(&words).await?.lines() {
            addresses.extend(self::addresses(line, usize::MAX).into_iter().skip(1));
        }
        addresses.retain(|address| KERNEL_CODE.contains(address));
        addresses.truncate(MAX_FRAMES);
        let mut stack = self.name(addresses).await?;
        stack.dedup();
        Ok(StoppedReplay {
            instruction,
            next,
            stack,
            gdb,
            player,
        })
    }

    /// Names addresses in a second guest, in which everything lies where it lies in the first: kernels are booted
    /// without address randomisation, and modules are loaded in the same order.
    async fn name(&self, addresses: Vec<u64>) -> HarnessResult<Vec<String>> {
        let mut plan = self.plan.clone();
        plan.work_dir = self.plan.work_dir.join("names");
        plan.tape = plan.tape.map(|tape| TapePlan {
            bundle: None,
            ..tape
        });
        fs::create_dir_all(&plan.work_dir).on("create", &plan.work_dir)?;
        let initramfs = cowbird_host::files::INITRAMFS_FILE;
        let (from, to) = (
            self.plan.work_dir.join(initramfs),
            plan.work_dir.join(initramfs),
        );
        fs::copy(&from, &to).on("copy", &from)?;
        let files = CellFiles {
            dir: plan.work_dir.clone(),
        };
        self.layout.create(&files, plan.seed)?;
        let unnamed = |error: String| HarnessError::Protocol {
            detail: format!("addresses of the kernel cannot be named: {error}"),
        };
        let machine = Machine::new(&plan, &self.layout, files);
        let mut vm = machine
            .boot()
            .await
            .map_err(|end| unnamed(end.to_string()))?;
        let module = Request::InsertModule {
            path: COWBIRD_KO.into(),
            params: String::new(),
        };
        let limit = plan.limits.control;
        let mut answer = vm.call(module, limit).await;
        if answer.is_ok() {
            answer = vm.call(Request::NameAddresses { addresses }, limit).await;
        }
        vm.stop().await;
        match answer {
            Ok(Reply::Names(names)) => Ok(names),
            Ok(reply) => Err(unnamed(format!("{reply:?}"))),
            Err(error) => Err(unnamed(error.to_string())),
        }
    }
}

/// The first numbers of a line of the monitor, as `ffffffff81000000: 0x... 0x...`.
fn addresses(line: &str, count: usize) -> Vec<u64> {
    let words = line.split([':', ' ', '\t']).map(str::trim);
    let words = words.filter(|word| !word.is_empty());
    words
        .map_while(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok())
        .take(count)
        .collect()
}

impl Player {
    /// Lets it run until so many instructions are executed. False: the tape ended before.
    async fn run_to(&self, instruction: u64) -> HarnessResult<bool> {
        match self.try_run_to(instruction).await {
            Err(_) if self.has_ended().await => Ok(false),
            stands => stands,
        }
    }

    async fn try_run_to(&self, instruction: u64) -> HarnessResult<bool> {
        let stop = json!({ "icount": instruction });
        self.qmp.execute("replay-break", stop).await?;
        self.qmp.execute("cont", json!({})).await?;
        let deadline = Instant::now() + STRETCH_LIMIT;
        while self.qmp.status().await? != "paused" {
            if self.process.end().is_some() {
                return Ok(false);
            }
            if Instant::now() > deadline {
                let detail = format!("the replay does not reach instruction {instruction}");
                return Err(HarnessError::Qemu { detail });
            }
            sleep(POLL).await;
        }
        let replay = self.qmp.execute("query-replay", json!({})).await?;
        match replay["icount"].as_u64() {
            Some(at) if at == instruction => Ok(true),
            at => Err(HarnessError::Qemu {
                detail: format!(
                    "the replay was to stop at instruction {instruction}, and is at {at:?}"
                ),
            }),
        }
    }

    async fn has_ended(&self) -> bool {
        tokio::time::timeout(LAST_LOOK, self.process.wait())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monitors_numbers_are_read() {
        let words = "ffffc90000003de8: 0xffffffff8165bdcc 0x0000000000000001";
        assert_eq!(
            addresses(words, usize::MAX),
            [0xffff_c900_0000_3de8, 0xffff_ffff_8165_bdcc, 1]
        );
        let code = "0xffffffff8160c3f4:  66 ef                    outw     %ax, (%dx)";
        assert_eq!(addresses(code, 1), [0xffff_ffff_8160_c3f4]);
        assert!(addresses("", 1).is_empty());
    }
}
