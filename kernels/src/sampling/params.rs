//! What one request asks of sampling. Values are checked where the request enters (HTTP).

/// How the next token is chosen. The default is greedy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Params {
    /// Divides the logits. 0 is greedy: the largest logit, ties to the lowest id.
    pub temperature: f32,
    /// Only the `top_k` most likely tokens may be drawn; 0 means all.
    pub top_k: u32,
    /// Only the smallest set of most likely tokens whose probabilities reach `top_p`; 1 means all.
    pub top_p: f32,
    /// Only tokens at least `min_p` times as likely as the most likely one; 0 means all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logit of every token seen in the output; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted per occurrence from the logit of a token seen in the output; 0 is off.
    pub frequency_penalty: f32,
    /// Key of the random numbers. Equal seeds, streams and positions give equal numbers.
    pub seed: u64,
    /// Tells the choices of one request (`n`) apart.
    pub stream: u32,
    /// Some(n): report the log-probability of the chosen token and of the `n` most likely ones
    /// (n <= [`MAX_LOGPROBS`]), taken from the model's logits before penalties and temperature.
    pub logprobs: Option<u8>,
}

/// The most alternatives that one token can report.
pub const MAX_LOGPROBS: u8 = 20;

impl Default for Params {
    fn default() -> Self {
        Params {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            stream: 0,
            logprobs: None,
        }
    }
}

impl Params {
    pub fn greedy(&self) -> bool {
        self.temperature <= 0.0
    }

    pub fn penalised(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}
