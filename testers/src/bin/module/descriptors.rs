//! Descriptors that the device refuses.

#![expect(unsafe_code, reason = "forks, and makes ioctls that must be refused")]

use core::mem::ManuallyDrop;

use tablewalk_rt::ExitCode;
use tablewalk_rt::ktap::{Case, Verdict};
use tablewalk_rt::process::Fork;
use tablewalk_testkit::expect::{all, expect, expect_error};
use tablewalk_testkit::page::Page;
use tablewalk_uapi::file::{self, O_PATH, O_RDONLY, O_RDWR, O_WRONLY, OwnedFd};
use tablewalk_uapi::memory::Protection;
use tablewalk_uapi::remap_device::{Device, Target};
use tablewalk_uapi::{Errno, Mapping, Sharing, process, raw};

use crate::place::{map, memory_of, open_target};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    Case {
        name: "only an open /proc/PID/mem is a target",
        run: others,
    },
    Case {
        name: "the descriptor of a zombie, of a process that was killed: ESRCH",
        run: ended,
    },
    Case {
        name: "neither descriptor can be mapped, read or asked for anything else",
        run: nothing_else,
    },
];

fn others(context: &mut Context) -> Result<Verdict, Errno> {
    let device = &context.device;
    let target = |path, flags| {
        let file = file::open(path, flags)?;
        device.target(file.borrow())
    };
    // SAFETY: never closed; not a descriptor, or, for the third, that of the second test.
    let number = |number| ManuallyDrop::new(unsafe { OwnedFd::from_number(number) });
    let (reader, _writer) = file::pipe()?;
    let again = Device::open()?;
    all(&[
        expect_error("-1", device.target(number(-1).borrow()), Errno::EBADF),
        expect_error("4000", device.target(number(4000).borrow()), Errno::EBADF),
        expect_error("maps", target(c"/proc/self/maps", O_RDONLY), Errno::EINVAL),
        expect_error(
            "pagemap",
            target(c"/proc/self/pagemap", O_RDONLY),
            Errno::EINVAL,
        ),
        expect_error("/dev/null", target(c"/dev/null", O_RDWR), Errno::EINVAL),
        expect_error("/dev/mem", target(c"/dev/zero", O_RDWR), Errno::EINVAL),
        expect_error("a pipe", device.target(reader.borrow()), Errno::EINVAL),
        expect_error("O_PATH", target(c"/proc/self/mem", O_PATH), Errno::EBADF),
        expect_error(
            "O_WRONLY",
            target(c"/proc/self/mem", O_WRONLY),
            Errno::EBADF,
        ),
        expect(
            "O_RDONLY",
            target(c"/proc/self/mem", O_RDONLY).map(|_| 0),
            Ok(0),
        ),
        expect(
            "a thread",
            target(c"/proc/thread-self/mem", O_RDONLY).map(|_| 0),
            Ok(0),
        ),
        expect(
            "a second device",
            again.target(memory_of(0, O_RDONLY)?.borrow()).map(|_| 0),
            Ok(0),
        ),
        // Process 2 is a kernel thread; later kernels refuse to open its memory.
        expect_error(
            "a kernel thread",
            target(c"/proc/2/mem", O_RDONLY),
            Errno::ESRCH,
        ),
    ])
}

fn ended(context: &mut Context) -> Result<Verdict, Errno> {
    let (reader, writer) = file::pipe()?;
    // SAFETY: the child uses the pipe.
    let child = unsafe { Fork::promised() }
        .spawn(|| ExitCode(u8::from(file::read(&reader, &mut [0]).is_err())))?;
    let target = open_target(&context.device, child.pid())?;
    let page = Page::read_only(&context.info)?;
    let alive = map(&target, &page, 0, 0).map(|_| 0);
    file::write(&writer, b".")?;
    process::wait_without_reaping(child.pid())?;
    let zombie = map(&target, &page, 0, 0);
    let opened = open_target(&context.device, child.pid());
    drop(child);
    all(&[
        expect("alive", alive, Ok(0)),
        expect_error("a zombie", zombie, Errno::ESRCH),
        expect_error("the memory of a zombie", opened, Errno::ESRCH),
        expect_error("reaped", map(&target, &page, 0, 0), Errno::ESRCH),
    ])
}

fn nothing_else(context: &mut Context) -> Result<Verdict, Errno> {
    let size = 1 << context.info.page_shift;
    let mut met = true;
    let device: &Device = &context.device;
    let target: &Target = &context.own;
    for fd in [device.descriptor(), target.descriptor()] {
        let mapped = Mapping::file(fd, 0, size, Protection::READ, Sharing::Shared);
        met &= expect_error("mmap", mapped, Errno::ENODEV);
        met &= expect_error("read", file::read(fd, &mut [0; 8]), Errno::EINVAL);
        for number in [0, 0xe202, 0xc020_e202, 0x5401] {
            let arguments = [fd.number().cast_unsigned().into(), number, 0, 0, 0, 0];
            // SAFETY: not an ioctl of these files.
            let called = unsafe { raw::call(raw::constants::__NR_ioctl, arguments) };
            met &= expect_error("ioctl", called, Errno::ENOTTY);
        }
    }
    Ok(met.into())
}
