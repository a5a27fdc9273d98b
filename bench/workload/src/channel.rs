//! Where marks and frames go.

/// Where the agent writes its marks and frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// An inherited descriptor.
    Fd(i32),
    /// The first serial port, I/O port 0x3f8, which every VMM has.
    Com1,
}

impl Channel {
    /// Reads `channel=…`; `None` if `word` is anything else. Allocates nothing: the agent needs its
    /// channel before it does anything else.
    pub fn from_word(word: &[u8]) -> Option<Channel> {
        match word.strip_prefix(b"channel=")? {
            b"com1" => Some(Channel::Com1),
            value => {
                let digits = value.strip_prefix(b"fd:")?;
                let is_plain = (1..=9).contains(&digits.len());
                (is_plain && digits.iter().all(u8::is_ascii_digit)).then(|| {
                    Channel::Fd(digits.iter().fold(0, |n, digit| n * 10 + i32::from(digit - b'0')))
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_channel_word_invalid_descriptor_returns_none() {
        for word in ["channel=fd:", "channel=fd:+3", "channel=fd:9999999999", "channel=", "fd:3"] {
            assert_eq!(Channel::from_word(word.as_bytes()), None, "{word}");
        }
        assert_eq!(Channel::from_word(b"channel=fd:3"), Some(Channel::Fd(3)));
    }
}
