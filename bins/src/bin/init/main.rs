//! `init`: process 1. Runs the programs, reports in KTAP, and ends the machine.

#![no_std]
#![cfg_attr(not(test), no_main)]

mod command_line;
mod console;
mod ending;
mod indented;
mod kernel_line;
mod led;
mod mounts;
mod orphans;
mod path;
mod run;
mod source;

use tablewalk_rt::console::never_give_up;
use tablewalk_rt::{Args, ExitCode, println};
use tablewalk_uapi::process;

use crate::command_line::{CommandLine, CommandLineError};
use crate::console::Output;
use crate::led::Led;
use crate::source::{Source, load_module};

tablewalk_rt::program!(main);

const HELP: &str = "\
Process 1: mounts file systems, runs programs, prints KTAP, ends the machine.
On the kernel command line: -- [OPTION…] [PROGRAM [ARGUMENT…] [+ PROGRAM …]]
  --end=poweroff   power off at the end; the default
  --end=reboot     reboot at the end
  --end=halt       stop the CPUs at the end, and leave the power on
  --end=stay       wait for ever; the kernel and the LED keep running
  --end=panic      end process 1: the kernel panics with exit code 0x000 for
                   PASS, 0x100 for FAIL, 0x400 for SKIP
  --verdict=panic  cause the same panic for FAIL and SKIP, whatever --end says
  --verdict=semihosting
                   end the emulator with status 0, 1 or 4 for PASS, FAIL or
                   SKIP; without an emulator, do what --end says
  --led=NAME       an LED in /sys/class/leds: off while programs run, then on for
                   PASS; with --end=stay it blinks twice a second for FAIL, once
                   in two seconds for SKIP
  --timeout=N      kill a program that runs longer than N seconds
A PROGRAM is a file in /bin. Without one, init runs the demonstration.
The last line is `tablewalk: PASS`, `tablewalk: FAIL`, or `tablewalk: SKIP` if
no test could run. If the command line has an error, the verdict is FAIL and no
program runs.
Without a console, the output goes to the kernel log (/dev/kmsg).";

fn main(args: Args) -> ExitCode {
    if process::pid() != 1 {
        println!("{HELP}");
        return ExitCode::USAGE;
    }
    never_give_up();
    let mounts = mounts::mount_what_is_missing();
    let output = Output::open();
    for failure in mounts {
        println!("# init: {failure}");
    }
    let mut line = CommandLine::new();
    let mut led = None;
    let status = match prepare(&mut line, &mut led, args) {
        Ok(()) => {
            load_module();
            println!("# source of page tables: {}", Source::find());
            run::all(&line.runs, line.timeout)
        }
        Err(error) => {
            println!("init: command line: {error}");
            ExitCode::FAILURE
        }
    };
    output.say(status);
    ending::end(&line, led.as_ref(), status)
}

/// Parses the command line before anything runs, and opens the LED.
fn prepare<'a>(
    line: &mut CommandLine<'a>,
    led: &mut Option<Led>,
    args: Args,
) -> Result<(), CommandLineError<'a>> {
    let given = kernel_line::check();
    let parsed = line.parse(args);
    let opened = match line.led {
        Some(name) => Led::open(name)
            .map(|open| *led = Some(open))
            .map_err(|errno| CommandLineError::Led(name, errno)),
        None => Ok(()),
    };
    // The LED is opened first, so that it can show the other errors.
    given.and(parsed).and(opened)
}
