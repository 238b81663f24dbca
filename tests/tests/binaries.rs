//! What the built executables must and must not contain.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails")]

use kekkai_tests::daemon::binary;

/// Names that a static glibc executable may call only at the price of loading NSS modules at run time.
const FORBIDDEN: [&str; 4] = ["getaddrinfo", "getpwnam_r", "gethostbyname_r", "getgrnam_r"];

/// The names in the symbol table (or the dynamic one) of a 64-bit little-endian ELF file.
fn symbols(elf: &[u8]) -> Vec<String> {
    let u64_at = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap()) as usize;
    let u32_at = |at: usize| u32::from_le_bytes(elf[at..at + 4].try_into().unwrap()) as usize;
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()) as usize;
    let (sections, size, count) = (u64_at(0x28), u16_at(0x3a), u16_at(0x3c));
    let mut names = Vec::new();
    for i in 0..count {
        let section = sections + i * size;
        // SHT_SYMTAB and SHT_DYNSYM.
        if ![2, 11].contains(&u32_at(section + 4)) {
            continue;
        }
        let (offset, length, link) = (
            u64_at(section + 0x18),
            u64_at(section + 0x20),
            u32_at(section + 0x28),
        );
        let strings = u64_at(sections + link * size + 0x18);
        for symbol in (offset..offset + length).step_by(24) {
            let name = strings + u32_at(symbol);
            let end = elf[name..].iter().position(|b| *b == 0).unwrap();
            names.push(String::from_utf8_lossy(&elf[name..name + end]).into_owned());
        }
    }
    names
}

/// Whether the file asks for an interpreter, that is, for dynamic linking.
fn is_dynamic(elf: &[u8]) -> bool {
    let u64_at = |at: usize| u64::from_le_bytes(elf[at..at + 8].try_into().unwrap()) as usize;
    let u16_at = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()) as usize;
    let (headers, size, count) = (u64_at(0x20), u16_at(0x36), u16_at(0x38));
    // PT_INTERP.
    (0..count).any(|i| elf[headers + i * size..][..4] == [3, 0, 0, 0])
}

#[test]
fn static_and_without_getaddrinfo() {
    for name in ["kekkai", "kekkai-keeper"] {
        let path = match binary(name) {
            Ok(path) => path,
            Err(error) => {
                println!("skipped: {error}");
                return;
            }
        };
        let elf = std::fs::read(path).unwrap();
        assert!(!is_dynamic(&elf), "{name} is linked dynamically");
        let symbols = symbols(&elf);
        assert!(
            symbols.len() > 100,
            "{name} has no symbol table to look into"
        );
        for forbidden in FORBIDDEN {
            assert!(
                !symbols.iter().any(|s| s == forbidden),
                "{name} contains {forbidden}"
            );
        }
    }
}
