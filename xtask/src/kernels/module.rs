//! Kernel modules: what a file says of itself, and the order in which a kernel takes them.

use std::collections::BTreeMap;

/// Names of the modules that must be loaded before the one with these bytes.
pub(super) fn needed_by(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    // The section of strings: `depends` stands among others, each ended by a zero byte.
    let Some(at) = module.windows(KEY.len()).position(|bytes| bytes == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    let names = String::from_utf8_lossy(&value[..end]).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

/// The name of a module, which files write with either of the two signs.
pub(super) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// These modules and all that they need, each after what it needs. What there is no file of is part of
/// the kernel.
pub(super) fn in_order(wanted: &[&str], needs: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let mut order = Vec::new();
    for name in wanted {
        add(&canonical(name), needs, &mut order);
    }
    order
}

fn add(name: &str, needs: &BTreeMap<String, Vec<String>>, order: &mut Vec<String>) {
    let Some(before) = needs.get(name) else { return };
    if order.iter().any(|known| known == name) {
        return;
    }
    before.iter().for_each(|needed| add(needed, needs, order));
    order.push(name.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_names_what_it_needs() {
        let file = b"\x7fELF..\0alias=x\0depends=nf_tables,nf-nat\0retpoline=Y\0";
        assert_eq!(needed_by(file), ["nf_tables", "nf_nat"]);
        assert_eq!(needed_by(b"..\0depends=\0name=veth\0"), [""; 0]);
        assert_eq!(needed_by(b"nothing"), [""; 0]);
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let needs = BTreeMap::from([
            ("nf_tables".to_owned(), vec!["libcrc32c".to_owned(), "nfnetlink".to_owned()]),
            ("nft_nat".to_owned(), vec!["nf_tables".to_owned(), "nf_nat".to_owned()]),
            ("nf_nat".to_owned(), vec!["libcrc32c".to_owned()]),
            ("nfnetlink".to_owned(), vec![]),
            ("libcrc32c".to_owned(), vec![]),
        ]);
        let order = in_order(&["nft-nat", "nf_tables", "built_in"], &needs);
        assert_eq!(order, ["libcrc32c", "nfnetlink", "nf_tables", "nf_nat", "nft_nat"]);
    }
}
