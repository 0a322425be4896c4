//! The programs of the object.

use aya::Ebpf;

use super::error::ProbeError;

/// The program of that name, if it is of that kind.
pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, ProbeError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| ProbeError::Missing(format!("program {name}")))
}
