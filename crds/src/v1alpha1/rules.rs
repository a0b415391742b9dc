//! Rules in CEL, as they stand beside the fields that they are about.

use serde::Serialize;

/// One validation rule and what it says when it does not hold.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expression: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field_path: Option<String>,
}

/// A rule over `self` that must hold.
pub(super) fn rule(expression: &str) -> Rule {
    let rule = expression.to_owned();
    Rule {
        rule,
        message: None,
        message_expression: None,
        field_path: None,
    }
}

impl Rule {
    /// The field that the error names, below the one that the rule stands at.
    pub(super) fn about(mut self, field_path: &str) -> Rule {
        self.field_path = Some(field_path.to_owned());
        self
    }

    /// A fixed message: what is wrong and the way out. The API server puts the field before it.
    pub(super) fn says(mut self, message: &str) -> Rule {
        self.message = Some(message.to_owned());
        self
    }

    /// A message that CEL computes, so that it can hold the numbers.
    pub(super) fn says_computed(mut self, expression: &str) -> Rule {
        self.message_expression = Some(expression.to_owned());
        self
    }
}

/// Rules for a span of time: hours, minutes and seconds, from 1s to 168h.
pub(super) fn span_rules() -> [Rule; 2] {
    const SPAN: &str = "self.matches('^([0-9]{1,4}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$') && self != ''";
    let bounds = "duration(self) >= duration('1s') && duration(self) <= duration('168h')";
    [
        rule(SPAN).says("must be a span of time; write e.g. 90s, 15m or 1h30m"),
        rule(&format!("!({SPAN}) || ({bounds})")).says("must be from 1s to 168h"),
    ]
}

/// Rules for a quantity of bytes: from 1Mi (so that a forgotten unit is caught) to below 1Pi.
pub(super) fn byte_rules() -> [Rule; 2] {
    [
        rule("isQuantity(string(self))").says("must be a quantity; write e.g. 700Mi or 10G"),
        rule(
            "!isQuantity(string(self)) || \
             (quantity(string(self)).compareTo(quantity('1Mi')) >= 0 && \
             quantity(string(self)).isLessThan(quantity('1Pi')))",
        )
        .says("must be at least 1Mi and less than 1Pi; write it with its unit, e.g. 700Mi"),
    ]
}
