//! `roundtrip`: a message to a program of the host, and its echo, one after the other.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use super::exchange::{connect, judge};
use crate::clock::{record_cost, timed};
use crate::exchange::{Operation, Request, Wire, message};
use crate::{
    Context, Env, Error, MetricSpec, Parameter, ParameterError, Params, Prepared, Report, Unit,
    Workload,
};

/// The workload `roundtrip`.
pub(crate) struct RoundTrip;

/// Messages before the first that is timed.
const WARM_UP: u64 = 16;

fn request(params: &Params) -> Result<Request, ParameterError> {
    Ok(Request {
        operation: Operation::Echo,
        message_bytes: params.size("message_bytes", 8..=1 << 20)? as u32,
        count: params.integer("count", 1..=10_000)?,
        seed: 2,
        is_checked: true,
    })
}

impl Workload for RoundTrip {
    fn name(&self) -> &'static str {
        "roundtrip"
    }

    fn about(&self) -> &'static str {
        "messages to a program of the host and back, one at a time"
    }

    fn parameters(&self) -> &'static [Parameter] {
        const {
            &[
                Parameter {
                    name: "message_bytes",
                    default: "64",
                    help: "bytes of a message, 8 to 1048576",
                },
                Parameter { name: "count", default: "2000", help: "messages, 1 to 10000" },
            ]
        }
    }

    fn metrics(&self) -> &'static [MetricSpec] {
        const {
            &[
                MetricSpec::CLOCK,
                MetricSpec::time("roundtrip_ns", "sending a message until all of it is back"),
            ]
        }
    }

    fn needs_peer(&self) -> bool {
        true
    }

    fn check(&self, params: &Params) -> Result<(), ParameterError> {
        request(params).map(drop)
    }

    fn prepare<'env>(
        &self,
        params: &Params,
        env: &'env Env<'env>,
    ) -> Result<Box<dyn Prepared + 'env>, Error> {
        let request = request(params)?;
        let message = message(request.seed, request.message_bytes as usize);
        let samples = vec![0.0; request.count as usize];
        let wire = connect("roundtrip", env)?;
        let buffer = vec![0; message.len()];
        let mut echo = Echo { wire, request, message, buffer, samples };
        let count = request.count + WARM_UP;
        echo.wire.ask(Request { count, ..request }).on("write", TARGET)?;
        for _ in 0..WARM_UP {
            echo.once()?;
        }
        Ok(Box::new(echo))
    }
}

const TARGET: &str = "the connection to the host";

struct Echo {
    wire: Wire,
    request: Request,
    message: Vec<u8>,
    buffer: Vec<u8>,
    samples: Vec<f64>,
}

impl Echo {
    fn once(&mut self) -> Result<f64, Error> {
        let (received, ns) = timed(|| {
            self.wire.send(&self.message)?;
            self.wire.receive(&mut self.buffer)
        });
        let seen = received.on("write or read", TARGET)?;
        let wrong = self.buffer != self.message;
        judge(Request { count: 1, ..self.request }, (seen.into(), wrong.into()))?;
        Ok(ns)
    }
}

impl Prepared for Echo {
    fn run(&mut self, report: &mut Report) -> Result<i32, Error> {
        for index in 0..self.samples.len() {
            self.samples[index] = self.once()?;
        }
        record_cost(report)?;
        report.record("roundtrip_ns", Unit::Nanoseconds, self.samples.as_slice())?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use crate::workloads::test_support::{run, run_with_peer, samples};

    #[test]
    fn test_roundtrip_times_every_message() {
        let report =
            run_with_peer("roundtrip", &[("count", "20"), ("message_bytes", "1000")]).unwrap();
        assert_eq!(samples(&report, "roundtrip_ns").len(), 20);
    }

    #[test]
    fn test_roundtrip_without_a_peer_says_so() {
        let error = run("roundtrip", &[], None).unwrap_err();
        assert!(error.to_string().contains("peer="), "{error}");
    }
}
