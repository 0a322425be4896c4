//! Shrinking: of a list of parts that fails together, the parts that are needed for it.
//!
//! This is delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002,
//! algorithm *ddmin*), turned inside out: a [`Shrinker`] does not run anything, it says which candidates to
//! try next, all that it can say at once, and is told which of them failed. A guest that takes seconds to boot
//! tries dozens of them.
//!
//! 1. The list is cut into pieces, two at first. Candidates are each piece alone, then all but each piece.
//! 2. The shortest candidate that fails is the new list. If it is a piece, that one is cut in two; otherwise
//!    the pieces that are left stay as they are.
//! 3. If none fails, the pieces are cut in half. Pieces of one part that are all needed end it.
//!
//! What is left is minimal in so far that no single part can be taken away, if the answers were right. Answers
//! about a race are not always: a candidate that might have failed and did not costs length, never truth,
//! because what is left was seen to fail.

use std::ops::Range;

/// Shrinks one list.
#[derive(Clone, Debug)]
pub struct Shrinker<T> {
    parts: Vec<T>,
    /// Into how many pieces the list is cut.
    pieces: usize,
    minimal: bool,
}

impl<T: Clone> Shrinker<T> {
    /// A list that fails.
    #[must_use]
    pub fn new(parts: Vec<T>) -> Self {
        let minimal = parts.len() < 2;
        Self {
            parts,
            pieces: 2,
            minimal,
        }
    }

    /// The shortest list so far that failed.
    #[must_use]
    pub fn parts(&self) -> &[T] {
        &self.parts
    }

    /// Whether nothing more can be taken away.
    #[must_use]
    pub fn is_minimal(&self) -> bool {
        self.minimal
    }

    /// What to try next; nothing when the list is minimal.
    #[must_use]
    pub fn candidates(&self) -> Vec<Vec<T>> {
        if self.minimal {
            return Vec::new();
        }
        let pieces = self.ranges();
        let mut candidates = Vec::new();
        // Of two pieces, each is all but the other one; and single parts are not worth a try each while
        // whole halves still go.
        if pieces.len() < self.parts.len() || pieces.len() == 2 {
            candidates.extend(
                pieces
                    .iter()
                    .map(|piece| self.parts[piece.clone()].to_vec()),
            );
        }
        if pieces.len() > 2 {
            candidates.extend(pieces.iter().map(|piece| {
                let (before, after) = (&self.parts[..piece.start], &self.parts[piece.end..]);
                [before, after].concat()
            }));
        }
        candidates
    }

    /// Takes the answers: for each of [`Self::candidates`] whether it failed.
    pub fn take(&mut self, failed: &[bool]) {
        let candidates = self.candidates();
        let shortest = candidates
            .into_iter()
            .zip(failed)
            .filter(|(_, failed)| **failed)
            .map(|(candidate, _)| candidate)
            .min_by_key(Vec::len);
        let piece_parts = self.parts.len().div_ceil(self.pieces);
        match shortest {
            Some(shorter) => {
                self.parts = shorter;
                self.pieces = self.parts.len().div_ceil(piece_parts).max(2);
            }
            None if self.pieces >= self.parts.len() => self.minimal = true,
            None => self.pieces = (self.pieces * 2).min(self.parts.len()),
        }
        self.minimal |= self.parts.len() < 2;
    }

    /// The pieces: as long as each other, but for one part.
    fn ranges(&self) -> Vec<Range<usize>> {
        let (parts, pieces) = (self.parts.len(), self.pieces.min(self.parts.len()));
        let start = |piece: usize| piece * parts / pieces;
        (0..pieces)
            .map(|piece| start(piece)..start(piece + 1))
            .collect()
    }
}
