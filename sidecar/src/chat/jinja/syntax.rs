//! A template as a tree.

use std::sync::Arc;

#[derive(Debug)]
pub(super) enum Expr {
    Const(Const),
    Name(Arc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attr(Box<Expr>, Arc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, [Option<Box<Expr>>; 3]),
    Call(Box<Expr>, Arguments),
    /// No expression: the text of the block that is filtered.
    Filter(Option<Box<Expr>>, Arc<str>, Arguments),
    Test(Box<Expr>, Arc<str>, Arguments),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    If(Box<[Expr; 2]>, Option<Box<Expr>>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// Operators of one rank, from the left.
    Arithmetic(Box<Expr>, Vec<(Operator, Expr)>),
    Concat(Vec<Expr>),
}

#[derive(Debug, Clone)]
pub(super) enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Modulo,
    Power,
}

#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) named: Vec<(Arc<str>, Expr)>,
    pub(super) splat: Option<Box<Expr>>,
    pub(super) named_splat: Option<Box<Expr>>,
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Arc<str>),
    Attr(Arc<str>, Arc<str>),
    Tuple(Vec<Target>),
}

#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) line: usize,
    pub(super) kind: StmtKind,
}

pub(super) type Body = Vec<Stmt>;

#[derive(Debug)]
pub(super) enum StmtKind {
    Data(Arc<str>),
    Print(Expr),
    If(Vec<(Expr, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expr),
    SetBlock(Target, Option<Expr>, Body),
    With(Vec<(Target, Expr)>, Body),
    Macro(Arc<Macro>),
    /// The call, and what `caller()` runs.
    CallBlock(Expr, Arc<Macro>),
    FilterBlock(Expr, Body),
    /// A `block` or `generation`: a scope of its own.
    Scope(Body),
    Break,
    Continue,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) over: Expr,
    pub(super) condition: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Body,
    pub(super) otherwise: Body,
}

/// A name, and what it is where nothing is given.
pub(super) type Parameter = (Arc<str>, Option<Expr>);

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) name: Option<Arc<str>>,
    pub(super) parameters: Vec<Parameter>,
    /// Whether its body names `caller`, `varargs`, `kwargs`.
    pub(super) uses_caller: bool,
    pub(super) uses_varargs: bool,
    pub(super) uses_kwargs: bool,
    pub(super) body: Body,
}
