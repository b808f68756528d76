//! A random number generator that gives the same numbers on every machine and in every version: SplitMix64 (Steele,
//! Lea, Flood 2014). It uses integers only, and neither a clock nor entropy nor the hash functions of the standard
//! library. Other charts need another seed.

/// The odd integer nearest to 2^64 divided by the golden ratio.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The state of a generator.
#[derive(Debug, Clone)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    /// Returns the generator for the `number`th object of a `kind` under this seed. It does not depend on other
    /// objects.
    pub(super) fn stream(seed: u64, kind: u64, number: u64) -> Self {
        Self(mix(mix(mix(seed).wrapping_add(kind)).wrapping_add(number)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// Returns a number less than `bound`, or 0 if `bound` is 0. A multiplication is used instead of a remainder; its
    /// bias is below 2^-32.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or_default()
    }

    /// Returns a number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// Returns true with this probability in percent.
    pub(super) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns one of the items, or `None` if there are none.
    pub(super) fn pick<'t, T>(&mut self, all: &'t [T]) -> Option<&'t T> {
        all.get(usize::try_from(self.below(all.len() as u64)).unwrap_or_default())
    }

    /// Returns one of the items, each with a probability proportional to its weight.
    pub(super) fn pick_weighted<'t, T>(&mut self, all: &'t [T], weight: impl Fn(&T) -> u64) -> Option<&'t T> {
        let mut left = self.below(all.iter().map(&weight).sum());
        all.iter().find(|item| {
            let found = left < weight(item);
            left = left.saturating_sub(weight(item));
            found
        })
    }
}

fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        let mut zero = SplitMix64(0);
        assert_eq!(
            [zero.next(), zero.next(), zero.next()],
            [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]
        );
        let mut other = SplitMix64(1_234_567);
        let numbers: Vec<_> = (0..5).map(|_| other.next()).collect();
        let known = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(numbers, known);
    }

    #[test]
    fn all_numbers_within_the_bounds_occur_and_no_others() {
        let mut random = SplitMix64::stream(1, 2, 3);
        let seen: std::collections::BTreeSet<_> = (0..1000).map(|_| random.between(3, 9)).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8, 9]);
        assert_eq!((random.below(0), random.between(5, 5), random.pick::<u8>(&[])), (0, 5, None));
        let hits = (0..10_000).filter(|_| random.chance(30)).count();
        assert!((2_700..3_300).contains(&hits), "{hits}");
    }

    #[test]
    fn weights_are_respected() {
        let mut random = SplitMix64::stream(1, 2, 3);
        let all = [("often", 90), ("never", 0), ("seldom", 10)];
        let drawn: Vec<_> =
            (0..10_000).filter_map(|_| random.pick_weighted(&all, |one| one.1)).map(|one| one.0).collect();
        let seldom = drawn.iter().filter(|name| **name == "seldom").count();
        assert!((800..1_200).contains(&seldom) && !drawn.contains(&"never") && drawn.len() == 10_000, "{seldom}");
    }

    #[test]
    fn streams_differ_by_seed_kind_and_number() {
        let first = |seed, kind, number| SplitMix64::stream(seed, kind, number).next();
        let all = [first(1, 1, 1), first(2, 1, 1), first(1, 2, 1), first(1, 1, 2), first(0, 0, 0)];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    }
}
