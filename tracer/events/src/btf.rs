//! The little of BTF that the tracer asks the running kernel: how a tracepoint is declared, and
//! which number a constant has.
//!
//! The loader parses BTF too, but does not show the declarations. The format is described in the
//! kernel's `Documentation/bpf/btf.rst`.

use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
const TYPE_BYTES: usize = 12;

const KIND_INT: u32 = 1;
const KIND_PTR: u32 = 2;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;

/// Why BTF could not be understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// It does not begin as BTF does.
    #[error("this is not BTF: {0}")]
    NotBtf(&'static str),
    /// A type reaches beyond the data.
    #[error("BTF ends inside type {0}")]
    Truncated(usize),
    /// A kind of type whose size is unknown: everything behind it is lost.
    #[error("BTF has type {index} of unknown kind {kind}; the kernel is newer than this program")]
    UnknownKind {
        /// Which type.
        index: usize,
        /// Its kind.
        kind: u32,
    },
}

/// One parameter of a tracepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Name of the type, empty where it has none of its own (a pointer).
    pub type_name: String,
    /// For a pointer, the name of what it points to.
    pub points_to: Option<String>,
}

/// A kernel's types.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; type 0 is void and has no place.
    offsets: Vec<usize>,
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// Bytes that follow the common part of a type.
fn extra_bytes(kind: u32, entries: usize) -> Option<usize> {
    Some(match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => entries * 12,
        KIND_ENUM | KIND_FUNC_PROTO => entries * 8,
        // Pointer, forward, typedef, qualifiers, function, float, type tag.
        KIND_PTR | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

impl<'a> Btf<'a> {
    /// Finds the types in the content of `/sys/kernel/btf/vmlinux`.
    ///
    /// # Errors
    /// When it is not little-endian BTF, is cut short, or has kinds of types unknown here.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        if bytes.len() < HEADER_BYTES || bytes[..2] != MAGIC.to_le_bytes() {
            return Err(BtfError::NotBtf("no little-endian BTF magic"));
        }
        let field = |offset| u32_at(bytes, offset).unwrap_or(0) as usize;
        let header = field(4);
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(offset)?;
            bytes.get(start..start.checked_add(length)?)
        };
        let outside = || BtfError::NotBtf("a section reaches beyond the end");
        let types = section(field(8), field(12)).ok_or_else(outside)?;
        let strings = section(field(16), field(20)).ok_or_else(outside)?;
        let mut offsets = vec![usize::MAX];
        let mut offset = 0;
        while offset < types.len() {
            let index = offsets.len();
            let info = u32_at(types, offset + 4).ok_or(BtfError::Truncated(index))?;
            let kind = info >> 24 & 0x1f;
            let extra = extra_bytes(kind, (info & 0xffff) as usize)
                .ok_or(BtfError::UnknownKind { index, kind })?;
            if offset + TYPE_BYTES + extra > types.len() {
                return Err(BtfError::Truncated(index));
            }
            offsets.push(offset);
            offset += TYPE_BYTES + extra;
        }
        Ok(Self {
            types,
            strings,
            offsets,
        })
    }

    fn word(&self, offset: usize) -> u32 {
        u32_at(self.types, offset).unwrap_or(0)
    }

    fn string(&self, offset: u32) -> &'a [u8] {
        let tail = self.strings.get(offset as usize..).unwrap_or(&[]);
        let end = tail
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(tail.len());
        &tail[..end]
    }

    fn kind(&self, offset: usize) -> u32 {
        self.word(offset + 4) >> 24 & 0x1f
    }

    fn entries(&self, offset: usize) -> usize {
        (self.word(offset + 4) & 0xffff) as usize
    }

    fn place(&self, id: u32) -> Option<usize> {
        self.offsets
            .get(id as usize)
            .copied()
            .filter(|offset| *offset != usize::MAX)
    }

    fn find(&self, kinds: &[u32], name: &str) -> Option<usize> {
        self.offsets.iter().skip(1).copied().find(|offset| {
            kinds.contains(&self.kind(*offset))
                && self.string(self.word(*offset)) == name.as_bytes()
        })
    }

    fn name_of(&self, id: u32) -> String {
        self.place(id).map_or_else(String::new, |offset| {
            String::from_utf8_lossy(self.string(self.word(offset))).into_owned()
        })
    }

    /// Parameters of a tracepoint; `None` if the kernel does not have it.
    #[must_use]
    pub fn tracepoint(&self, name: &str) -> Option<Vec<Parameter>> {
        let typedef = self.find(&[KIND_TYPEDEF], &format!("btf_trace_{name}"))?;
        let pointer = self.place(self.word(typedef + 8))?;
        let prototype = self.place(self.word(pointer + 8))?;
        if self.kind(pointer) != KIND_PTR || self.kind(prototype) != KIND_FUNC_PROTO {
            return None;
        }
        // The first parameter is the probe's own data.
        let parameters = (1..self.entries(prototype)).map(|index| {
            let id = self.word(prototype + TYPE_BYTES + index * 8 + 4);
            let target = self
                .place(id)
                .filter(|offset| self.kind(*offset) == KIND_PTR)
                .map(|offset| self.name_of(self.word(offset + 8)));
            Parameter {
                type_name: self.name_of(id),
                points_to: target,
            }
        });
        Some(parameters.collect())
    }

    /// Whether there is a type definition of that name.
    #[must_use]
    pub fn has_typedef(&self, name: &str) -> bool {
        self.find(&[KIND_TYPEDEF], name).is_some()
    }

    /// Bytes of a structure; `None` if the kernel does not have it.
    #[must_use]
    pub fn size_of(&self, structure: &str) -> Option<u32> {
        let offset = self.find(&[KIND_STRUCT], structure)?;
        Some(self.word(offset + 8))
    }

    /// Byte of a structure at which a member begins; `None` if there is no such member, or it is a
    /// bit field.
    #[must_use]
    pub fn member_offset(&self, structure: &str, member: &str) -> Option<u32> {
        let member = self.member(structure, member)?;
        // With bit fields in the structure, the upper byte is the size of the field.
        let bits = self.word(member + 8) & 0x00ff_ffff;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Name of the type of a structure's member; `None` if there is no such member. Empty for a type without a name.
    #[must_use]
    pub fn member_type(&self, structure: &str, member: &str) -> Option<String> {
        let member = self.member(structure, member)?;
        Some(self.name_of(self.word(member + 4)))
    }

    /// Where a member of a structure is described.
    fn member(&self, structure: &str, member: &str) -> Option<usize> {
        let offset = self.find(&[KIND_STRUCT], structure)?;
        (0..self.entries(offset))
            .map(|index| offset + TYPE_BYTES + index * 12)
            .find(|entry| self.string(self.word(*entry)) == member.as_bytes())
    }

    /// Constants of an enumeration with their values; `None` if the kernel does not have it.
    #[must_use]
    pub fn constants(&self, enumeration: &str) -> Option<Vec<(String, u32)>> {
        let offset = self.find(&[KIND_ENUM, KIND_ENUM64], enumeration)?;
        let size = if self.kind(offset) == KIND_ENUM {
            8
        } else {
            12
        };
        let constants = (0..self.entries(offset)).map(|index| {
            let entry = offset + TYPE_BYTES + index * size;
            let name = String::from_utf8_lossy(self.string(self.word(entry))).into_owned();
            (name, self.word(entry + 4))
        });
        Some(constants.collect())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// BTF with these types and strings.
    pub(crate) fn btf_of(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut bytes = vec![0x9f, 0xeb, 1, 0];
        let lengths = [24, 0, types.len(), types.len(), strings.len()];
        for word in lengths {
            bytes.extend_from_slice(&(word as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&types);
        bytes.extend_from_slice(strings);
        bytes
    }

    /// BTF with `typedef void (*btf_trace_x)(void *, struct bio *)` and `enum e { A = 3, B }`.
    fn sample() -> Vec<u8> {
        let strings = b"\0bio\0btf_trace_x\0e\0A\0B\0";
        let types: [u32; 30] = [
            1,
            4 << 24,
            8, // 1: struct bio
            0,
            2 << 24,
            1, // 2: pointer to it
            0,
            2 << 24,
            0, // 3: void *
            0,
            13 << 24 | 2,
            0,
            0,
            3,
            0,
            2, // 4: prototype
            0,
            2 << 24,
            4, // 5: pointer to it
            5,
            8 << 24,
            5, // 6: typedef
            17,
            6 << 24 | 2,
            4,
            19,
            3,
            21,
            4,
            0, // 7: enum, and half a type
        ];
        btf_of(&types[..29], strings)
    }

    #[test]
    fn reads_declarations_and_constants() {
        let bytes = sample();
        let btf = Btf::parse(&bytes).unwrap();
        let parameters = btf.tracepoint("x").unwrap();
        assert_eq!(parameters.len(), 1);
        assert_eq!(parameters[0].points_to.as_deref(), Some("bio"));
        assert_eq!(btf.tracepoint("y"), None);
        let constants = btf.constants("e").unwrap();
        assert_eq!(constants, [("A".to_owned(), 3), ("B".to_owned(), 4)]);
    }

    #[test]
    fn refuses_what_is_cut_anywhere() {
        let bytes = sample();
        for length in 0..bytes.len() {
            assert!(Btf::parse(&bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn refuses_unknown_kinds() {
        let mut bytes = sample();
        bytes[24 + 7] = 31;
        let error = Btf::parse(&bytes).unwrap_err();
        assert_eq!(error, BtfError::UnknownKind { index: 1, kind: 31 });
    }
}
