//! What the module says of itself.

use cowbird_host::error::HarnessError;
use serde::Deserialize;

use super::error::CaseResult;

/// What `/proc/cowbird-info` says, as far as the harness uses it.
#[derive(Debug, Clone, Deserialize)]
pub struct ModuleInfo {
    /// Name of the fault that the module was built with.
    pub mutant: Option<String>,
    /// The snapshots.
    pub devices: Vec<DeviceInfo>,
}

impl ModuleInfo {
    /// A cell of a mutant that judges the module as it is, or the reverse, would prove nothing.
    pub fn check_mutant(&self, planned: Option<&str>) -> CaseResult<()> {
        let loaded = self.mutant.as_deref();
        if loaded == planned {
            return Ok(());
        }
        let name = |mutant: Option<&str>| {
            mutant.map_or("no mutant".to_owned(), |name| format!("mutant {name}"))
        };
        let detail = format!(
            "the module that the guest has loaded was built with {}, and the plan says {}",
            name(loaded),
            name(planned)
        );
        Err(HarnessError::Plan { detail }.into())
    }
}

/// One snapshot in `/proc/cowbird-info`.
#[derive(Debug, Clone, Deserialize)]
pub struct DeviceInfo {
    /// Number of the snapshot.
    pub minor: u32,
    /// Epoch.
    pub seq_id: u64,
    /// Series, 32 hex digits.
    pub uuid: String,
    /// 0 or a negative errno.
    pub error: i64,
    /// Text of the state.
    pub state_name: String,
    /// Size of the origin, sectors.
    pub origin_sectors: u64,
    /// Blocks of the origin that are the COW file's own.
    pub cow_own_blocks: u64,
    /// Blocks preserved so far.
    pub preserved_blocks: u64,
    /// Whether the module holds the COW file.
    pub cow_is_pinned: bool,
    /// Whether changes are tracked.
    pub tracks: bool,
    /// Most blocks that were in memory at once since the bound of them was set.
    pub memory_peak_blocks: u64,
    /// That bound, bytes.
    pub max_cache: u64,
    /// Blocks that the COW file has, with what was added to it.
    pub cow_slots: u64,
    /// Of these, in use.
    pub cow_slots_used: u64,
    /// Writes to the origin that wait for their blocks to be preserved, or for their disk; 0 where the module does not say.
    #[serde(default)]
    pub held_bios: u32,
    /// For so long the last save held writes, ms; 0 where the module does not say.
    #[serde(default)]
    pub save_hold_ms: u64,
    /// Memory of its maps, bytes; 0 where the module does not say.
    #[serde(default)]
    pub map_bytes: u64,
    /// Whether nothing was written since the last save.
    #[serde(default)]
    pub saved: bool,
    /// What went wrong.
    #[serde(default)]
    pub error_text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a cell judges the module that its plan names. Method: a module as it is and one with a fault, each with the plan of the other.
    #[test]
    fn the_module_is_the_planned_one() {
        let info = |mutant: Option<&str>| ModuleInfo {
            mutant: mutant.map(str::to_owned),
            devices: Vec::new(),
        };
        for (loaded, planned, good) in [
            (None, None, true),
            (Some("no-gate"), Some("no-gate"), true),
            (Some("no-gate"), None, false),
            (None, Some("no-gate"), false),
            (Some("no-gate"), Some("no-hold"), false),
        ] {
            let checked = info(loaded).check_mutant(planned);
            assert_eq!(checked.is_ok(), good, "{loaded:?}, {planned:?}");
        }
    }
}
