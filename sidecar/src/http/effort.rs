//! `reasoning_effort`: how long a model thinks before it answers, as far as its chat template has a
//! switch for it.
//!
//! A template that reads `reasoning_effort` (gpt-oss) gets it as it is. One that reads
//! `enable_thinking` (Qwen3) knows on and off: `none` switches it off, and other levels are refused,
//! since it has none. Where the template has no switch, `none` is true already unless it speaks of
//! thinking somewhere: then it is refused too, for the model would think all the same.

use super::error::{ApiError, shown};
use super::fields::Fields;
use crate::chat::{Chat, ChatTemplate, Ordered};

const FIELD: &str = "reasoning_effort";
const SWITCH: &str = "enable_thinking";
const NONE: &str = "none";
/// OpenAI's, and `max`, which templates of other publishers know.
const LEVELS: [&str; 7] = [NONE, "minimal", "low", "medium", "high", "xhigh", "max"];

/// Takes the field.
pub fn take(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.string(FIELD)? {
        Some(level) if !LEVELS.contains(&level.as_str()) => {
            let message = format!(
                "{FIELD}: {} is none of {}",
                shown(&level),
                LEVELS.join(", ")
            );
            Err(ApiError::invalid(Some(FIELD), message))
        }
        level => Ok(level),
    }
}

/// Makes it a variable of the template.
pub fn apply(
    effort: Option<String>,
    template: &ChatTemplate,
    chat: &mut Chat,
) -> Result<(), ApiError> {
    let Some(level) = effort else { return Ok(()) };
    let (name, value) = if template.reads(FIELD, chat) {
        (FIELD, Ordered::Text(level))
    } else if level == NONE && template.reads(SWITCH, chat) {
        (SWITCH, Ordered::Bool(false))
    } else if level == NONE && !template.speaks_of_thinking(chat) {
        return Ok(());
    } else {
        let why = match template.reads(SWITCH, chat) {
            true => "this model's chat template knows only \"none\"; leave it out to let it think",
            false => "this model's chat template has no switch for it",
        };
        return Err(ApiError::unsupported(FIELD, why));
    };
    match chat.variables.iter().find(|(given, _)| given == name) {
        None => chat.variables.push((name.to_owned(), value)),
        Some((_, given)) if *given == value => {}
        Some(_) => {
            let message =
                format!("{FIELD}: chat_template_kwargs.{name} says otherwise; send one of them");
            return Err(ApiError::invalid(Some(FIELD), message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::model::ModelFolder;

    fn template(source: &str) -> ChatTemplate {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/models/tiny-llama"
        );
        let mut model = ModelFolder::open(Path::new(path)).unwrap();
        model.chat_templates = Some(source.to_owned().into());
        let tokenizer = model.tokenizer().unwrap();
        ChatTemplate::load(&model, &tokenizer).unwrap().unwrap()
    }

    /// The variables that the template gets for a level, or why it is refused.
    fn applied(
        source: &str,
        level: Option<&str>,
        given: &[(&str, Ordered)],
    ) -> Result<Vec<(String, Ordered)>, String> {
        let given = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()));
        let mut chat = Chat {
            variables: given.collect(),
            ..Chat::default()
        };
        let level = level.map(str::to_owned);
        apply(level, &template(source), &mut chat).map_err(|error| error.message)?;
        Ok(chat.variables)
    }

    #[test]
    fn an_effort_reaches_the_template_or_is_true_already_or_is_refused() {
        let levels = "{{ reasoning_effort|default('medium') }}";
        let switch =
            "{% if enable_thinking is defined and not enable_thinking %}<think>{% endif %}";
        let always = "{# R1 #}{{ '<think>' }}";
        let plain = "{{ messages }}";
        let variable = |name: &str, value| Ok(vec![(name.to_owned(), value)]);
        let off = || variable(SWITCH, Ordered::Bool(false));
        for source in [levels, switch, always, plain] {
            assert_eq!(applied(source, None, &[]), Ok(Vec::new()), "{source}");
        }
        for level in LEVELS {
            let expected = variable(FIELD, Ordered::text(level));
            assert_eq!(applied(levels, Some(level), &[]), expected);
        }
        assert_eq!(applied(switch, Some(NONE), &[]), off());
        assert_eq!(applied(plain, Some(NONE), &[]), Ok(Vec::new()));
        for (source, level, why) in [
            (switch, "high", "knows only \"none\""),
            (always, NONE, "no switch"),
            (always, "low", "no switch"),
            (plain, "medium", "no switch"),
        ] {
            let error = applied(source, Some(level), &[]).unwrap_err();
            assert!(error.contains(why), "{source}, {level}: {error}");
        }
        let given = |flag| [(SWITCH, Ordered::Bool(flag))];
        assert_eq!(applied(switch, Some(NONE), &given(false)), off());
        let error = applied(switch, Some(NONE), &given(true)).unwrap_err();
        assert!(
            error.contains("chat_template_kwargs.enable_thinking"),
            "{error}"
        );
    }

    #[test]
    fn levels_are_those_that_clients_know() {
        let read = |body: &str| take(&mut Fields::parse(body.as_bytes()).unwrap());
        assert_eq!(read("{}").unwrap(), None);
        assert_eq!(
            read(r#"{"reasoning_effort": "none"}"#).unwrap().as_deref(),
            Some(NONE)
        );
        for body in [
            r#"{"reasoning_effort": "much"}"#,
            r#"{"reasoning_effort": 3}"#,
        ] {
            assert_eq!(
                read(body).unwrap_err().param.as_deref(),
                Some(FIELD),
                "{body}"
            );
        }
    }
}
