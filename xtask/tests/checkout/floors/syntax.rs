//! What an item of a source file says of itself: its name, its attributes, whom it is for.

use proc_macro2::{TokenStream, TokenTree};

/// Segments of a path, such as `crate`, `disk` and `Partition`.
pub(super) type Segments = Vec<String>;

/// The name that an item defines.
pub(super) fn defined(item: &syn::Item) -> Option<&syn::Ident> {
    match item {
        syn::Item::Const(item) => Some(&item.ident),
        syn::Item::Enum(item) => Some(&item.ident),
        syn::Item::Fn(item) => Some(&item.sig.ident),
        syn::Item::Macro(item) => item.ident.as_ref(),
        syn::Item::Static(item) => Some(&item.ident),
        syn::Item::Struct(item) => Some(&item.ident),
        syn::Item::Trait(item) => Some(&item.ident),
        syn::Item::Type(item) => Some(&item.ident),
        syn::Item::Union(item) => Some(&item.ident),
        _ => None,
    }
}

/// The name that something in an `impl` has behind that of the type. What is for tests does not count.
pub(super) fn associated(item: &syn::ImplItem) -> Option<&syn::Ident> {
    let (name, attributes) = match item {
        syn::ImplItem::Const(item) => (&item.ident, &item.attrs),
        syn::ImplItem::Fn(item) => (&item.sig.ident, &item.attrs),
        _ => return None,
    };
    (!is_for_tests(attributes)).then_some(name)
}

pub(super) fn segments_of(path: &syn::Path) -> Segments {
    let segments = path.segments.iter();
    segments.map(|segment| segment.ident.to_string()).collect()
}

/// Keys of `serde` whose values are paths.
const NAMING: [&str; 6] = [
    "with",
    "default",
    "serialize_with",
    "deserialize_with",
    "skip_serializing_if",
    "try_from",
];

/// The paths that an attribute of `serde` has in texts.
pub(super) fn texts_of(tokens: TokenStream) -> Vec<String> {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let texts = tokens.windows(3).filter_map(|three| match three {
        [
            TokenTree::Ident(key),
            TokenTree::Punct(_),
            TokenTree::Literal(text),
        ] if NAMING.iter().any(|naming| key == naming) => {
            Some(text.to_string().trim_matches('"').to_owned())
        }
        _ => None,
    });
    texts.collect()
}

/// Whether code is compiled for tests alone.
pub fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Path>()
                .is_ok_and(|path| path.is_ident("test"))
    })
}

/// The attributes of those items that have some here.
pub fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
