//! What the files of one crate register.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, ImplItem, Item, Stmt, Type, UseTree, Visibility};

use crate::error::ListError;

/// The type of a registration.
const REGISTRATION: &str = "CasesOf";

/// Types that hold cases.
const HOLDERS: [&str; 2] = [REGISTRATION, "CaseInfo"];

/// A crate whose files register cases.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What Rust calls it.
    pub name: &'a str,
    /// Its folder of sources, from the root of the checkout.
    pub folder: &'a str,
}

/// A static that registers cases.
pub(crate) struct Registered {
    /// Its module, without the crate.
    pub(crate) module: String,
    /// The whole path.
    pub(crate) path: String,
}

/// What was found in a crate.
#[derive(Default)]
pub(crate) struct Scanned {
    pub(crate) registered: Vec<Registered>,
    /// Paths of statics that are in no list, as they must not be.
    pub(crate) excepted: Vec<String>,
}

/// Reads a crate from its `lib.rs` on.
pub(crate) fn scan(
    root: &Path,
    source: &Source<'_>,
    except: &[&str],
) -> Result<Scanned, ListError> {
    let folder = root.join(source.folder);
    let mut scan = Scan {
        root,
        name: source.name,
        except,
        reached: BTreeSet::new(),
        scanned: Scanned::default(),
    };
    scan.file(&folder.join("lib.rs"), &folder, &[], true)?;
    for file in files_below(&folder)? {
        if !scan.reached.contains(&file) {
            let what = format!(
                "no module declares it, so its cases would be in no list: add `pub mod {};` to `lib.rs`, or to the `mod.rs` of \
                 its folder",
                module_of(&file)
            );
            return Err(scan.unlisted(&file, what));
        }
    }
    Ok(scan.scanned)
}

/// What the module of a file is called.
fn module_of(file: &Path) -> String {
    let own = match file.file_name() {
        Some(name) if name == "mod.rs" => file.parent(),
        _ => Some(file),
    };
    let name = own.and_then(Path::file_stem).unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// All files of Rust below a folder.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, ListError> {
    let failed = |error| ListError::Read {
        path: folder.to_owned(),
        error,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Scan<'a> {
    root: &'a Path,
    name: &'a str,
    except: &'a [&'a str],
    /// Files that a module declares.
    reached: BTreeSet<PathBuf>,
    scanned: Scanned,
}

impl Scan<'_> {
    fn unlisted(&self, file: &Path, what: String) -> ListError {
        let inside = file.strip_prefix(self.root).unwrap_or(file);
        ListError::Unlisted {
            file: inside.display().to_string(),
            what,
        }
    }

    /// Reads the file of a module; those of its children are in `dir`. `seen`: whether other crates see the module.
    fn file(
        &mut self,
        file: &Path,
        dir: &Path,
        module: &[String],
        seen: bool,
    ) -> Result<(), ListError> {
        self.reached.insert(file.to_owned());
        let text = fs::read_to_string(file).map_err(|error| ListError::Read {
            path: file.to_owned(),
            error,
        })?;
        let parsed = syn::parse_file(&text).map_err(|error| {
            let inside = file.strip_prefix(self.root).unwrap_or(file);
            ListError::Syntax {
                file: inside.display().to_string(),
                error,
            }
        })?;
        self.items(file, dir, module, seen, &parsed.items)
    }

    fn items(
        &mut self,
        file: &Path,
        dir: &Path,
        module: &[String],
        seen: bool,
        items: &[Item],
    ) -> Result<(), ListError> {
        for item in items {
            match item {
                Item::Mod(item) => {
                    let name = item.ident.to_string();
                    let module = [module, std::slice::from_ref(&name)].concat();
                    let dir_of_it = dir.join(&name);
                    let conditional = has(&item.attrs, "cfg");
                    let seen = seen && is_public(&item.vis) && !conditional;
                    if let Some((_, items)) = &item.content {
                        // Code for tests alone registers nothing.
                        if !is_for_tests(&item.attrs) {
                            self.items(file, &dir_of_it, &module, seen, items)?;
                        }
                    } else if is_for_tests(&item.attrs) {
                        // The same of a file.
                    } else if has(&item.attrs, "path") {
                        let what = format!("the module `{name}` has a path of its own");
                        return Err(self.unlisted(file, what));
                    } else {
                        let beside = dir.join(format!("{name}.rs"));
                        let below = dir_of_it.join("mod.rs");
                        let child = if beside.exists() { beside } else { below };
                        self.file(&child, &dir_of_it, &module, seen)?;
                    }
                }
                // What a constant names would be compiled again, with every change of any case, where the list is.
                Item::Const(item) if holds(&item.ty) => {
                    return Err(self.misunderstood(file, &item.ident));
                }
                Item::Static(item) if holds(&item.ty) => {
                    let name = item.ident.to_string();
                    let path = [&[self.name.to_owned()], module, &[name]].concat();
                    let path = path.join("::");
                    let plain = seen && is_public(&item.vis) && !has(&item.attrs, "cfg");
                    if self.except.contains(&path.as_str()) {
                        self.scanned.excepted.push(path);
                    } else if plain && is_registration(&item.ty) {
                        let module = module.join("::");
                        self.scanned.registered.push(Registered { module, path });
                    } else {
                        return Err(self.misunderstood(file, &item.ident));
                    }
                }
                Item::Type(item) if holds(&item.ty) => {
                    return Err(self.misunderstood(file, &item.ident));
                }
                Item::Macro(item) if mentions(item.mac.tokens.clone()) => {
                    return Err(self.misunderstood(file, &item.mac.path));
                }
                Item::Use(item) if renames(&item.tree) => {
                    return Err(self.misunderstood(file, &item.tree));
                }
                Item::Impl(item) => {
                    for part in &item.items {
                        if let ImplItem::Const(constant) = part
                            && holds(&constant.ty)
                        {
                            return Err(self.misunderstood(file, &constant.ident));
                        }
                    }
                }
                Item::Fn(item) if !is_for_tests(&item.attrs) => {
                    for statement in &item.block.stmts {
                        if let Stmt::Item(inner) = statement {
                            self.items(file, dir, module, false, std::slice::from_ref(inner))?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn misunderstood(&self, file: &Path, what: &impl ToTokens) -> ListError {
        let what = what.to_token_stream();
        let what = format!(
            "the cases of `{what}` would be in no list: register them by `pub static {what}: {REGISTRATION} = \
             Subject::...cases(&[...]);` in a public module, without a condition"
        );
        self.unlisted(file, what)
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

/// Whether it is `#[cfg(test)]`, with no other condition.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|condition| condition == "test")
    })
}

fn has(attributes: &[Attribute], name: &str) -> bool {
    attributes
        .iter()
        .any(|attribute| attribute.path().is_ident(name))
}

/// Whether a type is that of registrations, and no collection of them.
fn is_registration(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    let last = path.path.segments.last();
    last.is_some_and(|last| last.ident == REGISTRATION)
}

/// Whether a type has cases in it. A function has none, it is called with some.
fn holds(ty: &Type) -> bool {
    !matches!(ty, Type::BareFn(_)) && mentions(ty.to_token_stream())
}

fn mentions(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => HOLDERS.iter().any(|holder| ident == holder),
        TokenTree::Group(group) => mentions(group.stream()),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

/// Whether an import gives a type that holds cases another name.
fn renames(tree: &UseTree) -> bool {
    match tree {
        UseTree::Path(tree) => renames(&tree.tree),
        UseTree::Group(group) => group.items.iter().any(renames),
        UseTree::Rename(tree) => HOLDERS.iter().any(|holder| tree.ident == holder),
        UseTree::Name(_) | UseTree::Glob(_) => false,
    }
}
