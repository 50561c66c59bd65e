//! Amounts of resources: `100m`, `64Mi`, `2`.

use std::cmp::Ordering;
use std::fmt;

/// An amount, in thousandths. It remembers whether it was given in powers of 1024.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Quantity {
    milli: i128,
    binary: bool,
}

const DECIMAL: [(&str, i128); 7] = [
    ("E", 1_000_000_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("G", 1_000_000_000_000),
    ("M", 1_000_000_000),
    ("k", 1_000_000),
    ("m", 1),
];
const BINARY: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];

impl Quantity {
    /// Parses an amount; what is none counts as nothing. What is finer than a thousandth is rounded up.
    pub(crate) fn parse(text: &str) -> Self {
        let text = text.trim();
        if let Some((number, shift)) =
            BINARY.iter().find_map(|(s, shift)| text.strip_suffix(s).map(|n| (n, *shift)))
        {
            return Quantity { milli: scaled(number, 1000 << shift), binary: true };
        }
        let (number, factor) = DECIMAL
            .iter()
            .find_map(|(s, factor)| text.strip_suffix(s).map(|n| (n, *factor)))
            .unwrap_or((text, 1000));
        Quantity { milli: scaled(number, factor), binary: false }
    }

    /// In thousandths.
    pub(crate) fn milli(self) -> i128 {
        self.milli
    }

    /// A plain number.
    pub(super) fn of(number: u64) -> Self {
        Quantity { milli: i128::from(number) * 1000, binary: false }
    }

    /// The sum; it is written as the first amount was, unless that is nothing.
    pub(super) fn plus(self, other: Self) -> Self {
        let binary = if self.milli == 0 { other.binary } else { self.binary };
        Quantity { milli: self.milli + other.milli, binary }
    }

    /// The larger of two.
    pub(super) fn max(self, other: Self) -> Self {
        if other > self { other } else { self }
    }

    /// Whether it is nothing.
    pub(super) fn is_zero(self) -> bool {
        self.milli == 0
    }
}

/// `number * factor`, where the number may have decimals or an exponent.
fn scaled(number: &str, factor: i128) -> i128 {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((m, e)) => (m, e.parse::<i32>().unwrap_or(0).clamp(-18, 18)),
        None => (number, 0),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits: i128 = format!("{whole}{part}").parse().unwrap_or(0);
    let ten = |n: u32| 10i128.saturating_pow(n);
    let down = ten(u32::try_from(part.len()).unwrap_or(0)) * ten(u32::try_from(-exponent).unwrap_or(0));
    let up = digits.saturating_mul(factor).saturating_mul(ten(u32::try_from(exponent).unwrap_or(0)));
    up / down + i128::from(up % down > 0)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.milli == other.milli
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.milli.partial_cmp(&other.milli)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest unit without a fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli == 0 {
            return f.write_str("0");
        }
        if self.binary && self.milli % 1000 == 0 && self.milli >= 1_024_000 {
            let whole = self.milli / 1000;
            let unit = BINARY.iter().find(|(_, shift)| whole % (1i128 << shift) == 0);
            return match unit {
                Some((suffix, shift)) => write!(f, "{}{suffix}", whole >> shift),
                None => write!(f, "{whole}"),
            };
        }
        let (suffix, factor) = DECIMAL
            .iter()
            .find(|(_, factor)| self.milli % factor == 0 && *factor > 1000)
            .copied()
            .unwrap_or(if self.milli % 1000 == 0 { ("", 1000) } else { ("m", 1) });
        write!(f, "{}{suffix}", self.milli / factor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantity_is_written_canonically() {
        for (given, written) in [
            ("1000m", "1"),
            ("0.5", "500m"),
            ("10m", "10m"),
            ("1500", "1500"),
            ("2000", "2k"),
            ("1e3", "1k"),
            ("64Mi", "64Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0", "0"),
            ("nonsense", "0"),
        ] {
            assert_eq!(Quantity::parse(given).to_string(), written, "{given}");
        }
    }

    #[test]
    fn quantities_add_up_and_compare() {
        let sum = Quantity::default().plus(Quantity::parse("16Mi")).plus(Quantity::parse("48Mi"));
        assert_eq!(sum.to_string(), "64Mi");
        assert!(
            Quantity::parse("1") > Quantity::parse("999m") && Quantity::parse("1Ki") > Quantity::of(1000)
        );
        assert!(Quantity::parse("0.0001") > Quantity::default());
    }
}
