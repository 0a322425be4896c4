//! PID 1 and agent of the test guests.
//!
//! Started by the kernel it is init: it mounts, loads the boot modules, goes on from the root volume if
//! there is one, starts itself again as the agent and from then on only reaps. The agent serves the host over the virtio-serial port. They
//! are two processes so that nothing that goes wrong in the agent ends PID 1, which would panic the
//! kernel and be charged to the module under test.

mod agent;
mod exercise;
mod hibernate;
mod init;
mod kernel_log;
mod memory_pressure;
mod mount_pin;
mod ops;
mod root;
mod script;
mod stack;
mod symbols;

use cowbird_guest_system::say;
use cowbird_guest_workloads as workloads;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some(init::AGENT_ARGUMENT) {
        agent::run();
    } else if first.as_deref() == Some(workloads::DELAYED_WRITER_ARGUMENT) {
        let rest: Vec<String> = arguments.collect();
        if let Err(error) = workloads::write_delayed(&rest) {
            say!("cowbird-guest: {error}");
            std::process::exit(1);
        }
    } else if first.as_deref() == Some(workloads::SWAPPER_ARGUMENT) {
        let rest: Vec<String> = arguments.collect();
        if let Err(error) = workloads::swap(&rest) {
            say!("cowbird-guest: {error}");
            std::process::exit(1);
        }
    } else if first.as_deref() == Some(workloads::GROUPED_WRITER_ARGUMENT) {
        let rest: Vec<String> = arguments.collect();
        if let Err(error) = workloads::write_grouped(&rest) {
            say!("cowbird-guest: {error}");
            std::process::exit(1);
        }
    } else if let Some(
        what @ (exercise::EXERCISE_ARGUMENT
        | exercise::DIGEST_ARGUMENT
        | exercise::SHUTDOWN_ARGUMENT),
    ) = first.as_deref()
    {
        let rest: Vec<String> = arguments.collect();
        if let Err(error) = exercise::run(what, &rest) {
            say!("cowbird-guest: {}", error.message);
            std::process::exit(1);
        }
    } else if std::process::id() == 1 && first.as_deref() == Some(root::SWITCHED_ARGUMENT) {
        init::serve();
    } else if std::process::id() == 1 {
        init::run();
    } else {
        say!("cowbird-guest is the init of a test guest; it runs as PID 1 of an initramfs only");
        std::process::exit(2);
    }
}
