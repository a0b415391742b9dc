//! Which modules a config means: PEFT's rules for names and expressions (`check_target_module_exists`,
//! `get_pattern_key`), with expressions that need no backtracking.

use regex::Regex;

/// An expression of Python's, anchored at both ends.
#[derive(Clone, Debug)]
pub(crate) struct Pattern(Regex);

impl Pattern {
    /// The whole name.
    pub(crate) fn whole(text: &str) -> Result<Pattern, String> {
        Pattern::compile(text, &format!("^(?:{text})$"))
    }

    /// The end of the name, from a dot on.
    pub(crate) fn ending(text: &str) -> Result<Pattern, String> {
        Pattern::compile(text, &format!(r"^(?:.*\.)?(?:{text})$"))
    }

    /// A module of that name, or anything within it.
    fn within(text: &str) -> Result<Pattern, String> {
        Pattern::compile(text, &format!(r"(?:^|^.*\.)(?:{text})(?:$|\.)"))
    }

    /// The number of a layer behind a list of that name, the first in the module's name.
    fn layers(text: &str) -> Result<Pattern, String> {
        Pattern::compile(text, &format!(r"^(?:.*?\.)?(?:{text})\.(\d+)\."))
    }

    fn compile(text: &str, anchored: &str) -> Result<Pattern, String> {
        let regex = Regex::new(anchored);
        let regex = regex.map_err(|_| {
            let text = crate::model_error::shorten(text);
            format!("`{text}` is no expression that is read here (look-around and back references are not)")
        });
        regex.map(Pattern)
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.captures(name)?.get(1)?.as_str().parse().ok()
    }
}

/// `target_modules` or `exclude_modules`.
#[derive(Clone, Debug)]
pub(crate) enum Names {
    Each(Vec<String>),
    Pattern(Pattern),
    /// `all-linear`: all but the head.
    AllLinear,
}

impl Names {
    fn has_end_of(&self, module: &str) -> bool {
        match self {
            Names::Each(names) => names.iter().any(|name| {
                module == name
                    || module
                        .strip_suffix(name.as_str())
                        .is_some_and(|at| at.ends_with('.'))
            }),
            Names::Pattern(pattern) => pattern.matches(module),
            Names::AllLinear => !module.ends_with("lm_head") && !module.ends_with("embed_tokens"),
        }
    }
}

/// What a config targets.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    pub(crate) targets: Names,
    pub(crate) excluded: Option<Names>,
    /// These layers alone; all where it is empty.
    pub(crate) layers: Vec<u64>,
    /// What a list of layers is called; anything where it is empty.
    pub(crate) lists: Vec<Pattern>,
    /// Modules that are saved whole are never targets.
    pub(crate) saved: Vec<Pattern>,
}

impl Targets {
    pub(crate) fn list_of_layers(name: &str) -> Result<Pattern, String> {
        Pattern::layers(name)
    }

    pub(crate) fn saved(name: &str) -> Result<Pattern, String> {
        Pattern::within(name)
    }

    pub(crate) fn mean(&self, module: &str) -> bool {
        let excluded = self.excluded.as_ref();
        if excluded.is_some_and(|names| names.has_end_of(module))
            || self.saved.iter().any(|saved| saved.matches(module))
            || !self.targets.has_end_of(module)
        {
            return false;
        }
        match &self.targets {
            // A name given in full means its layer.
            Names::Each(names) if names.iter().any(|name| name == module) => true,
            Names::Each(_) => self.layers.is_empty() || self.is_in_layers(module),
            Names::Pattern(_) | Names::AllLinear => true,
        }
    }

    fn is_in_layers(&self, module: &str) -> bool {
        let number = match self.lists.as_slice() {
            [] => any_list(module),
            lists => lists.iter().find_map(|list| list.number(module)),
        };
        number.is_some_and(|number| self.layers.contains(&number))
    }
}

/// The first number behind a name behind a dot: `model.layers.3.…` is 3.
fn any_list(module: &str) -> Option<u64> {
    let parts: Vec<&str> = module.split('.').collect();
    let numbers = parts.get(2..parts.len().saturating_sub(1))?.iter();
    let mut numbers = numbers.filter_map(|part| part.parse().ok());
    numbers.next()
}

/// What the first matching expression gives a module.
pub(crate) fn first<T: Copy>(of: &[(Pattern, T)], module: &str) -> Option<T> {
    let found = of.iter().find(|(pattern, _)| pattern.matches(module));
    found.map(|(_, value)| *value)
}
