//! `stream`: bulk data to a program of the host and from it.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::exchange::{connect, judge};
use crate::clock::timed;
use crate::exchange::{Operation, Request, Wire, message};
use crate::{
    Context, Env, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report, Unit,
    Workload,
};

/// The workload `stream`.
pub(crate) struct Stream;

/// What the parameters say.
struct Plan {
    message_bytes: usize,
    count: u64,
    repeats: usize,
    is_checked: bool,
}

impl Plan {
    fn new(params: &Params) -> Result<Plan, ParameterError> {
        let message_bytes = params.size("message_bytes", 8..=1 << 20)?;
        let bytes = params.integer("bytes", 1 << 10..=1 << 40)?;
        Ok(Plan {
            message_bytes,
            count: bytes.div_ceil(message_bytes as u64),
            repeats: params.size("repeats", 1..=1000)?,
            is_checked: params.flag("check")?,
        })
    }

    fn request(&self, operation: Operation) -> Request {
        Request {
            operation,
            message_bytes: self.message_bytes as u32,
            count: self.count,
            seed: 1,
            is_checked: self.is_checked,
        }
    }
}

impl Workload for Stream {
    fn name(&self) -> &'static str {
        "stream"
    }

    fn about(&self) -> &'static str {
        "bulk data over one connection to a program of the host, each direction by itself"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const {
            &[
                Parameter {
                    name: "bytes",
                    default: "268435456",
                    help: "bytes of one transfer, rounded up to whole messages",
                },
                Parameter {
                    name: "message_bytes",
                    default: "65536",
                    help: "bytes handed to the kernel at once, 8 to 1048576",
                },
                Parameter { name: "repeats", default: "5", help: "transfers each way, 1 to 1000" },
                Parameter {
                    name: "check",
                    default: "0",
                    help: "1: compare every byte, within the timed span; 0: of each message eight",
                },
            ]
        }
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::rate("send_bytes_per_s", "to the host, until it says that it has all"),
                MetricSpec::rate("receive_bytes_per_s", "from the host"),
            ]
        }
    }

    fn needs_peer(&self) -> bool {
        true
    }

    fn check(&self, params: &Params) -> Result<(), ParameterError> {
        Plan::new(params).map(drop)
    }

    fn prepare<'env>(
        &self,
        params: &Params,
        env: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        let plan = Plan::new(params)?;
        let message = message(plan.request(Operation::Sink).seed, plan.message_bytes);
        let buffer = vec![0; plan.message_bytes];
        let wire = connect("stream", env)?;
        let mut transfer = Transfer { wire, plan, message, buffer };
        // Every byte of as much is compared here, before anything is timed.
        for operation in [Operation::Sink, Operation::Source] {
            let request = transfer.plan.request(operation);
            transfer.run(Request { is_checked: true, ..request })?;
        }
        Ok(Box::new(transfer))
    }
}

struct Transfer {
    wire: Wire,
    plan: Plan,
    message: Vec<u8>,
    buffer: Vec<u8>,
}

impl Transfer {
    fn run(&mut self, request: Request) -> Result<(), Error> {
        let target = "the connection to the host";
        self.wire.ask(request).on("write", target)?;
        let verdict = if request.operation == Operation::Source {
            self.wire.take(request, &self.message, &mut self.buffer).on("read", target)?
        } else {
            for _ in 0..request.count {
                self.wire.send(&self.message).on("write", target)?;
            }
            self.wire.verdict().on("read", target)?
        };
        judge(request, verdict)
    }
}

impl Prepared for Transfer {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        let bytes = self.plan.count as f64 * self.plan.message_bytes as f64;
        for (name, operation) in
            [("send_bytes_per_s", Operation::Sink), ("receive_bytes_per_s", Operation::Source)]
        {
            let mut rates = Vec::with_capacity(self.plan.repeats);
            for _ in 0..self.plan.repeats {
                let request = self.plan.request(operation);
                let (done, ns) = timed(|| self.run(request));
                done?;
                rates.push(bytes * 1e9 / ns);
            }
            report.record(name, Unit::BytesPerSecond, rates)?;
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use crate::workloads::test_support::{run_with_peer, samples};

    #[test]
    fn test_stream_reports_a_rate_for_each_transfer_each_way() {
        for check in ["0", "1"] {
            let given = [
                ("bytes", "100000"),
                ("message_bytes", "4096"),
                ("repeats", "3"),
                ("check", check),
            ];
            let report = run_with_peer("stream", &given).unwrap();
            for name in ["send_bytes_per_s", "receive_bytes_per_s"] {
                let rates = samples(&report, name);
                assert!(rates.len() == 3 && rates.iter().all(|rate| *rate > 0.0), "{rates:?}");
            }
        }
    }
}
