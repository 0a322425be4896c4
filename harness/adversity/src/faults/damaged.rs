//! Preserved blocks that the COW file's disk has not kept as they were stored, and gives without an error.

use cowbird_cases::context::CaseContext;
use cowbird_cases::info::{CaseInfo, CaseTier, case};
use cowbird_cases::modules::GUEST_MODULES;
use cowbird_cases::names::{COW_HOME, COW_MOUNT, IMAGE, MINOR, ORIGIN, SNAPSHOT};
use cowbird_cases::raw_writers;
use cowbird_cases::subject::{CasesOf, Subject};
use cowbird_checks::claim::Evidence;
use cowbird_checks::image::ImageClaim;
use cowbird_host::program::HostProgram;
use cowbird_model::MarkerKey;
use cowbird_proto::message::Request;
use cowbird_session::fault::Fault;
use cowbird_session::guest::{
    CaseError, CaseResult, FAILED, GuestSession, SHELL, coreutil, vacuous,
};

use super::{ORIGIN_SECTORS, spec, update};

/// The case of this file.
pub static CASES: CasesOf = Subject::Persistence.cases(&[CaseInfo {
    programs: PROGRAMS,
    ..case(
        "preserved-damaged",
        "suspended snapshots whose preserved blocks the COW file's disk has not kept",
        CaseTier::Daily,
        &GUEST_MODULES,
        super::layout,
        |guest, context| Box::pin(preserved_blocks(guest, context)),
    )
    .making(&[Fault::ChangedCowFile])
}]);

/// What the scripts use.
const PROGRAMS: &[HostProgram] = &[
    SHELL,
    coreutil("dd"),
    HostProgram {
        program: "grep",
        package: "grep",
    },
];

const BLOCK_BYTES: usize = 4096;

/// The last block of the origin, and how much there is of it.
const LAST: u64 = ORIGIN_SECTORS as u64 / 8;
const LAST_BYTES: usize = (ORIGIN_SECTORS % 8) as usize * 512;

/// Blocks that a round overwrites, so far from each other that reads cross single preserved blocks, from one place on.
const BLOCKS: u64 = 24;
const STEP: u64 = 3;
const ROUND_BLOCKS: u64 = 256;

/// Blocks that are read at once, of which a third are preserved: no more than the agent takes from a program.
const STRETCH: u64 = 24;

/// Which of those that are overwritten are damaged.
const VICTIMS: [u64; 2] = [17, 20];

/// What the module says of the snapshot.
const NOT_WHAT_WAS_STORED: &str = "is not what was stored there";

/// What has become of the two slots.
#[derive(Clone, Copy, Debug)]
enum Damage {
    /// One bit is another one.
    Bit,
    /// The stores were lost: there is what was there before.
    Lost,
    /// Each has what the other one should have.
    Exchanged,
    /// Somebody cleared them.
    Cleared,
}

/// How a damaged block is asked for.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// By itself.
    Block,
    /// A sector of it.
    Sector,
    /// With what lies around it.
    Stretch,
    /// By the tool that copies all.
    Copy,
}

const ROUNDS: [(Damage, Way); 4] = [
    (Damage::Bit, Way::Block),
    (Damage::Lost, Way::Sector),
    (Damage::Exchanged, Way::Stretch),
    (Damage::Cleared, Way::Copy),
];

/// Goal: what a disk has not kept is never given to a reader, whatever became of it and however it is asked for; what it has
/// kept is; and changes go on to be tracked. Method: in each round a snapshot is suspended, two of its preserved blocks are
/// damaged on the device, and it is taken up again. First the blocks that are well are read, then those that are not; then
/// the snapshot must say that it has failed. Each round begins with an update of the image by the changes since the one
/// before, and the last image must be right.
async fn preserved_blocks(
    guest: &mut GuestSession<'_, '_>,
    context: &CaseContext,
) -> CaseResult<Evidence> {
    raw_writers::prepare(guest, context).await?;
    for (number, (damage, way)) in (0..).zip(ROUNDS) {
        let round = Round { number };
        guest.phase("preserve");
        round.write_old(guest).await?;
        next_epoch(guest, number == 0).await?;
        round.write_new(guest).await?;
        round.damage(guest, damage).await?;
        round.read_what_is_well(guest).await?;
        round.read_what_is_not(guest, damage, way).await?;
    }
    let marker = next_epoch(guest, false).await?;
    guest.phase("teardown");
    guest.destroy_snapshot(MINOR).await?;
    raw_writers::tear_down(guest).await?;
    let image = ImageClaim::new(marker, context.origin_range());
    Ok(Evidence::from(image).expecting(&[FAILED]))
}

/// A snapshot, and the image as it is.
async fn next_epoch(guest: &mut GuestSession<'_, '_>, first: bool) -> CaseResult<MarkerKey> {
    if !first {
        return update(guest).await;
    }
    let marker = guest.setup_snapshot(spec(ORIGIN)).await?;
    guest.copy_image(SNAPSHOT, IMAGE).await?;
    Ok(marker)
}

async fn write(
    guest: &mut GuestSession<'_, '_>,
    path: &str,
    offset: u64,
    content: impl Into<Vec<u8>>,
) -> CaseResult<()> {
    let request = Request::WriteDirect {
        path: path.into(),
        offset,
        content: content.into(),
    };
    guest.prepare(request).await.map(|_| ())
}

/// Some sectors of the snapshot, past every cache.
fn dd(bytes: u64, skip: u64) -> String {
    format!("dd if={SNAPSHOT} iflag=direct status=none count=1 bs={bytes} skip={skip}")
}

/// Some blocks, in one read.
fn dd_stretch(block: u64, blocks: u64) -> String {
    let [at, bytes] = [block, blocks].map(|blocks| blocks * BLOCK_BYTES as u64);
    format!("dd if={SNAPSHOT} iflag=direct,skip_bytes status=none count=1 bs={bytes} skip={at}")
}

async fn expect_shown(
    guest: &mut GuestSession<'_, '_>,
    bytes: u64,
    skip: u64,
    expected: &str,
) -> CaseResult<()> {
    if guest.shell(&dd(bytes, skip)).await? == expected {
        return Ok(());
    }
    let text = format!("the snapshot shows something else at {bytes} * {skip}");
    Err(CaseError::Failed(text))
}

struct Round {
    number: u64,
}

impl Round {
    fn first(&self) -> u64 {
        self.number * ROUND_BLOCKS
    }

    /// A block that is overwritten.
    fn block(&self, at: u64) -> u64 {
        self.first() + at * STEP
    }

    /// What a block has, in words that are nowhere else; the slot of a block begins with them.
    fn word(&self, block: u64, version: &str) -> String {
        format!("<round {} block {block} {version}>", self.number)
    }

    fn content(&self, block: u64, version: &str) -> String {
        let word = self.word(block, version);
        let mut content = word.repeat(BLOCK_BYTES / word.len() + 1);
        content.truncate(if block == LAST {
            LAST_BYTES
        } else {
            BLOCK_BYTES
        });
        content
    }

    /// What lies from one block to another one.
    fn stretch(&self, blocks: std::ops::Range<u64>) -> String {
        blocks.map(|block| self.content(block, "old")).collect()
    }

    async fn write_old(&self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        let all = self.stretch(self.first()..self.block(BLOCKS));
        write(guest, ORIGIN, self.first() * BLOCK_BYTES as u64, all).await?;
        let last = self.content(LAST, "old");
        write(guest, ORIGIN, LAST * BLOCK_BYTES as u64, last).await
    }

    async fn write_new(&self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        for block in (0..BLOCKS).map(|at| self.block(at)).chain([LAST]) {
            let content = self.content(block, "new");
            write(guest, ORIGIN, block * BLOCK_BYTES as u64, content).await?;
        }
        Ok(())
    }

    /// The snapshot is suspended, two of its blocks are damaged in the COW file while nobody has it, and it goes on.
    async fn damage(&self, guest: &mut GuestSession<'_, '_>, damage: Damage) -> CaseResult<()> {
        guest.phase("damage");
        guest.unmount(COW_MOUNT).await?;
        guest.suspend(MINOR).await?;
        guest.remove_module().await?;
        let [one, other] = VICTIMS.map(|at| self.block(at));
        let places = [
            self.place_of(guest, one).await?,
            self.place_of(guest, other).await?,
        ];
        guest.makes(Fault::ChangedCowFile)?;
        for (place, block, instead) in [(places[0], one, other), (places[1], other, one)] {
            let content = self.damaged(damage, block, instead);
            write(guest, COW_HOME, place, content).await?;
        }
        guest.insert_module().await?;
        let refused = |said| CaseError::Failed(format!("the snapshot was not taken up: {said}"));
        guest.reload_all().await?.map_err(refused)?;
        guest.mount(COW_HOME, COW_MOUNT, "").await?;
        guest.verify(MINOR).await?.map_err(refused)
    }

    fn damaged(&self, damage: Damage, block: u64, instead: u64) -> Vec<u8> {
        let mut content = self.content(block, "old").into_bytes();
        match damage {
            Damage::Bit => content[BLOCK_BYTES - 1] ^= 1,
            Damage::Lost => content.fill(0xE5),
            Damage::Exchanged => content = self.content(instead, "old").into_bytes(),
            Damage::Cleared => content.fill(0),
        }
        content
    }

    /// Where the slot of a block lies on [`COW_HOME`]: what is there is what was stored.
    async fn place_of(&self, guest: &mut GuestSession<'_, '_>, block: u64) -> CaseResult<u64> {
        let word = self.word(block, "old");
        let script = format!("grep --text -obF -m1 '{word}' {COW_HOME}");
        let found = guest.shell(&script).await?;
        let place: Option<u64> = found.split(':').next().and_then(|at| at.parse().ok());
        let absent = || {
            vacuous(&format!(
                "the slot of block {block} was not found: {found:.60}"
            ))
        };
        let place = place.ok_or_else(absent)?;
        let script = format!(
            "dd if={COW_HOME} iflag=direct,skip_bytes status=none count=1 bs={BLOCK_BYTES} skip={place}"
        );
        if guest.shell(&script).await? != self.content(block, "old") {
            return Err(absent());
        }
        Ok(place)
    }

    /// Blocks that were preserved and not damaged: some by themselves, sectors of them, and many at once.
    async fn read_what_is_well(&self, guest: &mut GuestSession<'_, '_>) -> CaseResult<()> {
        guest.phase("read");
        for at in [0, 8, VICTIMS[0] - 1, VICTIMS[0] + 1, BLOCKS - 1] {
            let block = self.block(at);
            let content = self.content(block, "old");
            expect_shown(guest, BLOCK_BYTES as u64, block, &content).await?;
            expect_shown(guest, 512, block * 8 + 5, &content[5 * 512..6 * 512]).await?;
        }
        let last = self.content(LAST, "old");
        expect_shown(guest, 512, LAST * 8, &last[..512]).await?;
        expect_shown(guest, BLOCK_BYTES as u64, LAST, &last).await?;
        for at in (0..VICTIMS[0] * STEP / STRETCH).map(|at| at * STRETCH) {
            let first = self.first() + at;
            let stretch = self.stretch(first..first + STRETCH);
            if guest.shell(&dd_stretch(first, STRETCH)).await? != stretch {
                return Err(CaseError::Failed(format!(
                    "the {STRETCH} blocks from {first} on are not shown as they were"
                )));
            }
        }
        Ok(())
    }

    /// Those that were damaged are errors, and from the first of them on all of the snapshot is.
    async fn read_what_is_not(
        &self,
        guest: &mut GuestSession<'_, '_>,
        damage: Damage,
        way: Way,
    ) -> CaseResult<()> {
        let block = self.block(VICTIMS[0]);
        let script = match way {
            Way::Block => dd(BLOCK_BYTES as u64, block),
            Way::Sector => dd(512, block * 8),
            Way::Stretch => dd_stretch(block - STEP, 2 * STEP),
            Way::Copy => String::new(),
        };
        if matches!(way, Way::Copy) {
            let copy = format!("copy-image {SNAPSHOT} {COW_MOUNT}/image");
            guest
                .expect_failure(&copy, "cannot read the snapshot")
                .await?;
        } else {
            expect_error(guest, &script, damage).await?;
        }
        let device = guest.wait_until_failed(MINOR, NOT_WHAT_WAS_STORED).await?;
        if !device.error_text.contains(&format!("block {block} ")) {
            let text = format!("block {block} is damaged, and {}", device.error_text);
            return Err(CaseError::Failed(text));
        }
        if !device.tracks {
            return Err(CaseError::Failed(
                "changes are not tracked any more".to_owned(),
            ));
        }
        for at in [VICTIMS[1], 0] {
            expect_error(guest, &dd(BLOCK_BYTES as u64, self.block(at)), damage).await?;
        }
        Ok(())
    }
}

async fn expect_error(
    guest: &mut GuestSession<'_, '_>,
    script: &str,
    damage: Damage,
) -> CaseResult<()> {
    let exited = guest.shell_to_any_end(script).await?;
    if exited.code == Some(1) && exited.stderr.contains("Input/output error") {
        return Ok(());
    }
    Err(CaseError::Failed(format!(
        "damage {damage:?} is served: {script} ends with {:?}, {} bytes, {}",
        exited.code,
        exited.stdout.len(),
        exited.stderr.trim()
    )))
}
