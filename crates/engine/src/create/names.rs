//! Random names for containers that are given none: `adjective_noun`, the noun being a thing with an edge or a wall,
//! since a container is a boundary drawn around something.

const ADJECTIVES: &[&str] = &[
    "agile", "amber", "ample", "azure", "balmy", "bold", "brave", "breezy", "bright", "brisk",
    "calm", "candid", "cheery", "civil", "clear", "clever", "cosy", "crisp", "daring", "deft",
    "eager", "early", "earnest", "easy", "elated", "even", "exact", "fair", "fervent", "festive",
    "fine", "firm", "fleet", "fluent", "fond", "frank", "fresh", "gentle", "glad", "golden",
    "grand", "happy", "hardy", "hazel", "honest", "humble", "ideal", "jaunty", "jolly", "jovial",
    "keen", "kind", "large", "late", "light", "limber", "lively", "loyal", "lucid", "lucky",
    "lunar", "mellow", "merry", "mild", "misty", "modest", "neat", "nimble", "noble", "novel",
    "patient", "placid", "polite", "proud", "quick", "quiet", "rapid", "ready", "robust", "rosy",
    "royal", "rustic", "safe", "serene", "sharp", "shiny", "silent", "silver", "simple", "sleek",
    "smooth", "snowy", "sober", "solar", "solid", "spry", "steady", "stoic", "sturdy", "sunny",
    "swift", "tidy", "true", "upbeat", "vivid", "warm", "wise", "witty", "young", "zesty",
];

const NOUNS: &[&str] = &[
    "abbey", "acorn", "alcove", "anchor", "arbor", "arch", "atoll", "barn", "barrel", "basin",
    "basket", "bay", "beacon", "bower", "bridge", "burrow", "cabin", "cairn", "canal", "canyon",
    "castle", "cave", "cellar", "chalet", "chapel", "chest", "cloister", "cocoon", "copse",
    "cottage", "court", "cove", "cradle", "crater", "creek", "dell", "delta", "den", "dike",
    "dock", "dome", "fence", "fern", "ferry", "field", "fjord", "ford", "forge", "fort", "gable",
    "garden", "garret", "gate", "glade", "glen", "grange", "grotto", "grove", "hamlet", "harbor",
    "haven", "hearth", "hedge", "hill", "hive", "hollow", "house", "hut", "inlet", "island",
    "jetty", "keep", "lagoon", "lair", "lake", "lantern", "ledge", "lodge", "loft", "manor",
    "meadow", "mill", "moat", "nest", "nook", "oasis", "orchard", "paddock", "palace", "pier",
    "pond", "porch", "quarry", "quay", "ranch", "reef", "ridge", "shell", "shore", "shrine",
    "spire", "spring", "stable", "tavern", "temple", "terrace", "tower", "valley", "vault",
    "villa", "wall", "well", "wharf", "willow", "yard",
];

/// How many names are tried before a number is appended.
pub(crate) const ATTEMPTS: usize = 6;

/// The name that `random` (four bytes) picks; a digit makes later attempts likelier to be free.
pub(crate) fn pick(random: u32, attempt: usize) -> String {
    let [a, b, c, d] = random.to_le_bytes();
    let adjective = ADJECTIVES[(usize::from(a) | usize::from(b) << 8) % ADJECTIVES.len()];
    let noun = NOUNS[(usize::from(c) | usize::from(d) << 8) % NOUNS.len()];
    match attempt {
        0..ATTEMPTS => format!("{adjective}_{noun}"),
        more => format!("{adjective}_{noun}{}", more - ATTEMPTS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_makes_a_legal_name() {
        for word in ADJECTIVES.iter().chain(NOUNS) {
            assert!(word.bytes().all(|b| b.is_ascii_lowercase()), "{word}");
        }
        pick(u32::MAX, 9)
            .parse::<kekkai_types::ContainerName>()
            .unwrap();
    }
}
