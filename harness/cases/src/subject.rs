//! What cases are about. A file registers the cases that it plays under one subject or several.

use crate::info::CaseInfo;

/// Cases of one subject. A public static of this type in a file that plays cases is their registration: the list of all
/// cases is made of these statics when the harness is compiled.
#[derive(Debug, Clone, Copy)]
pub struct CasesOf {
    /// What they are about.
    pub subject: Subject,
    /// The cases.
    pub cases: &'static [CaseInfo],
}

/// A page that explains cases.
#[derive(Debug, Clone, Copy)]
pub struct See {
    /// What it says.
    pub what: &'static str,
    /// Its path from `docs/`.
    pub page: &'static str,
}

/// What is said of a subject.
#[derive(Debug, Clone, Copy)]
pub struct About {
    /// What its cases are about, as a heading.
    pub title: &'static str,
    /// What explains them.
    pub see: &'static [See],
}

/// What a case is about. The order is that of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// What failed once.
    Regressions,
    /// One volume under writers.
    Volume,
    /// What an operator does with snapshots.
    Operation,
    /// What others do with the origin meanwhile.
    Surroundings,
    /// Where Cowbird ends.
    Limits,
    /// What must outlive unmounts and the absence of the module.
    Persistence,
    /// Errors, killed tools, little memory, devices that change.
    Faults,
    /// Tasks that sleep, and disks that are slow or stop.
    Waiting,
    /// Machines that go off.
    Boots,
    /// Large and sparse origins.
    Large,
    /// The root volume.
    Root,
    /// Kinds of disks.
    Disks,
    /// Origins that are stacked on other devices.
    Stacked,
    /// Filesystems other than an ext4 with its own COW file.
    Filesystems,
    /// Programs that keep their own data.
    Applications,
    /// Long loads.
    Endurance,
    /// What the tracer records.
    Tracing,
    /// What is written to an origin through other devices.
    Above,
}

impl Subject {
    /// Registers cases of this subject. Where one refers to a `static`, the compiler does not keep the list for ever; then
    /// [`CasesOf`] is written out.
    pub const fn cases(self, cases: &'static [CaseInfo]) -> CasesOf {
        CasesOf {
            subject: self,
            cases,
        }
    }

    /// What is said of it.
    pub const fn about(self) -> About {
        match self {
            Self::Regressions => About {
                title: "What failed once, and is tried before anything else",
                see: &[See {
                    what: "how it is kept",
                    page: "../harness/regressions/README.md",
                }],
            },
            Self::Volume => About {
                title: "One volume under writers: its snapshots, and the images made of them",
                see: &[See {
                    what: "how much it helps to amplify a race",
                    page: "decisions/0021-races-are-amplified.md",
                }],
            },
            Self::Operation => About {
                title: "What an operator does with snapshots while they are written to: series, sets, bounds, room for the COW file",
                see: &[
                    See {
                        what: "several volumes at one instant",
                        page: "decisions/0016-several-volumes-at-one-instant.md",
                    },
                    See {
                        what: "how a COW file gets more room",
                        page: "decisions/0018-a-snapshot-grows-by-annexes.md",
                    },
                ],
            },
            Self::Surroundings => About {
                title: "What others do with the origin and its filesystem meanwhile: limits, freezes, mounts, namespaces, exercisers",
                see: &[See {
                    what: "what a tracked origin must have in common with an untracked one",
                    page: "decisions/0034-a-tracked-origin-is-as-an-untracked-one.md",
                }],
            },
            Self::Limits => About {
                title: "Where Cowbird ends: as many snapshots as there can be, what is refused, and mistakes at the command line",
                see: &[],
            },
            Self::Persistence => About {
                title: "Snapshots and change maps that must outlive unmounts and the absence of the module, or end where they cannot",
                see: &[
                    See {
                        what: "what is kept and what is not",
                        page: "decisions/0011-tracking-outlives-the-session.md",
                    },
                    See {
                        what: "what could fool change tracking, and why it cannot",
                        page: "tracking-trust.md",
                    },
                ],
            },
            Self::Faults => About {
                title: "Errors of disks, killed tools, little memory, and devices that change under their snapshots",
                see: &[
                    See {
                        what: "what was seen, and what an operator does then",
                        page: "reliability.md",
                    },
                    See {
                        what: "how faults are made",
                        page: "decisions/0020-faults-are-made-in-the-guest.md",
                    },
                ],
            },
            Self::Waiting => About {
                title: "Tasks that sleep and disks that are slow or stop: what must go on beside them, and what must end",
                see: &[See {
                    what: "how long everything may take",
                    page: "decisions/0043-what-waits-and-for-how-long.md",
                }],
            },
            Self::Boots => About {
                title: "Machines that are powered off or lose their power",
                see: &[See {
                    what: "what is kept and what is not",
                    page: "decisions/0011-tracking-outlives-the-session.md",
                }],
            },
            Self::Large => About {
                title: "Origins that are larger than the memory for their maps, or mostly empty",
                see: &[See {
                    what: "how maps are counted before they are asked for",
                    page: "decisions/0037-maps-are-counted-before-they-are-asked-for.md",
                }],
            },
            Self::Root => About {
                title: "The root volume, which is in use before the tools are",
                see: &[
                    See {
                        what: "the boot hooks",
                        page: "../dist/README.md",
                    },
                    See {
                        what: "a root volume in the guest",
                        page: "decisions/0027-a-root-volume-in-the-guest.md",
                    },
                ],
            },
            Self::Disks => About {
                title: "Kinds of disks: whole ones, their buses, and the sizes of their logical blocks",
                see: &[],
            },
            Self::Stacked => About {
                title: "Origins that are stacked on other devices",
                see: &[See {
                    what: "how the truth of a stacked origin is found",
                    page: "decisions/0013-the-truth-of-stacked-origins.md",
                }],
            },
            Self::Filesystems => About {
                title: "Filesystems other than an ext4 with its own COW file, and everything that changes their files",
                see: &[],
            },
            Self::Applications => About {
                title: "Programs that keep their own data, and judge what is restored",
                see: &[See {
                    what: "how restored databases are judged",
                    page: "decisions/0025-databases-are-asked-themselves.md",
                }],
            },
            Self::Endurance => About {
                title: "Long loads: power cuts by the hundred, and snapshots that come and go at random",
                see: &[See {
                    what: "how power cuts are tried on a witness",
                    page: "decisions/0012-power-cuts-on-the-witness.md",
                }],
            },
            Self::Tracing => About {
                title: "What the tracer records even when nobody asks for it",
                see: &[See {
                    what: "how trace, witness and journal are compared",
                    page: "decisions/0019-trace-witness-and-journal.md",
                }],
            },
            Self::Above => About {
                title: "What is written to an origin from above, through other devices",
                see: &[
                    See {
                        what: "what a topology is",
                        page: "decisions/0040-topologies-are-data.md",
                    },
                    See {
                        what: "how many cuts are judged",
                        page: "decisions/0041-many-cuts-by-their-maps.md",
                    },
                ],
            },
        }
    }
}
