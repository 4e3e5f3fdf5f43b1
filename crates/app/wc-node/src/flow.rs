//! A job, in a straight line: one file per station, in the order in which a job passes them.

pub(crate) mod submit;

pub(crate) mod admit;

pub(crate) mod stage;

pub(crate) mod schedule;

pub(crate) mod dispatch;

pub(crate) mod run;

pub(crate) mod report;

pub(crate) mod agree;

pub(crate) mod post;

pub(crate) mod receipt;
