//! What Jinja2 renders and this engine refuses by name, each with its reason.

/// What Jinja2 renders and this engine refuses, each with its reason. Nothing else may differ, a
/// different text never; the list only shrinks.
pub(super) const REFUSED: [(&str, &str); 34] = [
    (
        "{{ items|map('string') is lower }}",
        "the text of a generator is an address",
    ),
    (
        "{{ items|map('string') is upper }}",
        "the text of a generator is an address",
    ),
    ("{{ namespace() is lower }}", "a Python object as text"),
    ("{{ namespace() is upper }}", "a Python object as text"),
    (
        "{{ raise_exception is lower }}",
        "the text of a function is an address",
    ),
    (
        "{{ raise_exception is upper }}",
        "the text of a function is an address",
    ),
    (
        "{{ 'x'.upper is lower }}",
        "the text of a method is an address",
    ),
    (
        "{{ 'x'.upper is upper }}",
        "the text of a method is an address",
    ),
    (
        "{{ none[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ true[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 0[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 1[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 1.5[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ {}[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ {'a':1}[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    (
        "{{ 'x'.upper[1:] }}",
        "what cannot be sliced: Jinja2 refuses variables, drops constants",
    ),
    ("{{ \"abc\".encode() }}", "bytes"),
    ("{{ lipsum() is string }}", "random text"),
    (
        "{{ ('<'|e) + '<' }}",
        "HTML: text marked safe escapes what joins it",
    ),
    ("{{ '<'|forceescape }}", "HTML"),
    ("{{ '<b>x</b>'|striptags }}", "HTML"),
    ("{{ '\\N{BULLET}' }}", "Python's table of character names"),
    (
        "{% block a %}x{% endblock %}",
        "inheritance between templates",
    ),
    (
        "{% block a %}x{{ one }}{% endblock a %}y",
        "inheritance between templates",
    ),
    ("{% autoescape false %}{{ '<' }}{% endautoescape %}", "HTML"),
    ("{{ self }}", "inheritance between templates"),
    (
        "{{ items is sameas items }}",
        "the identity of Python objects",
    ),
    ("{{ d.keys() - ['a'] }}", "sets"),
    (
        "{{ 1234.5|round(-2) }}",
        "Python's rounding of floats to tens",
    ),
    ("{{ (255).bit_length() }}", "methods of numbers"),
    ("{{ 'abc'.translate({97: 'x'}) }}", "tables of translations"),
    (
        "{{ '%-5s|%5s|%.3s|%c%c' % ('é', '🎉', 'abcdef', 65, 'z') }}",
        "a character by its number",
    ),
    ("{{ '{:c}'.format(65) }}", "a character by its number"),
    ("{{ '%a' % 'é' }}", "Python's ascii()"),
];
/// Refused wherever a case has it.
pub(super) const REFUSED_PARTS: [(&str, &str); 17] = [
    ("|filesizeformat", "sizes of files in words"),
    ("|wordwrap", "lines broken by width"),
    ("|pprint", "Python's printing over several lines"),
    ("|xmlattr", "HTML"),
    ("|urlize", "HTML"),
    ("|random", "random values"),
    (".grouper", "names of a group's parts"),
    ("attribute='list'", "names of a group's parts"),
    ("'ſ'.casefold()", "folding of letters that are not ASCII's"),
    ("'ẞ'.casefold()", "folding of letters that are not ASCII's"),
    ("'ΑΣ'.casefold()", "folding of letters that are not ASCII's"),
    ("'²'.is", "Unicode's kinds of digits"),
    ("'½'.is", "Unicode's kinds of digits"),
    ("'٣'", "Unicode's kinds of digits"),
    ("'١٢'", "Unicode's kinds of digits"),
    ("'日本'.is", "Unicode's kinds of letters"),
    ("!a}", "Python's ascii()"),
];
