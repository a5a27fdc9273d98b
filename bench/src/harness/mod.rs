//! The harness: many cells, each replicate in a fresh instance, in randomised blocks.
//!
//! A *cell* is a backend, a workload and its variant. A *block* runs one replicate of every cell,
//! in an order drawn from the recorded seed, so that no cell runs alone and drift of the machine
//! falls on all alike (METHOD rules 4 and 5). Nothing here knows a backend or a workload by name.

mod attendant;
mod crowd;
mod density;
mod floor;
mod lifecycle;
mod limits;
mod progress;
mod remaining;
mod replicate;
mod room;
mod run;
mod seed;
mod series;
mod stopping;

pub use attendant::Attendant;
pub use density::{Density, Error as DensityError, density};
pub use floor::measure as measure_floors;
pub(crate) use floor::process_floor;
pub use lifecycle::{Arrivals, Lifecycle, NoLifecycle};
pub use replicate::{Conduct, Error as ReplicateError, replicate};
pub use run::{Act, CellPlan, Finished, Schedule, Until, run};
pub use seed::fresh as fresh_seed;
