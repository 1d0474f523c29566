//! Sizes, alignments, offsets and ioctl numbers as section A of the specification prints them.

use std::mem::{align_of, offset_of, size_of};

use homa_sys::*;

/// Asserts the size and alignment of a structure and the offset and size of every field.
macro_rules! layout {
    ($type:ident, $size:literal, { $($field:ident @ $offset:literal: $kind:ty),+ $(,)? }) => {
        assert_eq!(size_of::<$type>(), $size, stringify!($type));
        #[cfg(target_pointer_width = "64")]
        assert_eq!(align_of::<$type>(), 8, stringify!($type));
        let mut filled = 0;
        $(
            assert_eq!(
                offset_of!($type, $field), $offset,
                concat!(stringify!($type), ".", stringify!($field)),
            );
            let _: fn($type) -> $kind = |value| value.$field;
            assert_eq!(filled, $offset, concat!("a gap before ", stringify!($field)));
            filled = $offset + size_of::<$kind>();
        )+
        assert_eq!(filled, $size, concat!(stringify!($type), " has implicit padding at its end"));
    };
}

#[test]
fn the_receive_region_argument_is_laid_out_as_in_a3() {
    layout!(homa_rcvbuf_args, 16, { start @ 0: u64, length @ 8: u64 });
    assert_eq!((SO_HOMA_RCVBUF, SO_HOMA_SERVER), (10, 11));
    assert_eq!(HOMA_RCVBUF_CLOBBERED, 16);
    // The minimum that A.3 names for a machine with 256 CPUs.
    assert_eq!(256 * HOMA_BPAGE_SIZE + HOMA_RCVBUF_MIN_BASE, 18_777_216);
    assert_eq!(HOMA_RCVBUF_MAX, 4 << 30);
}

#[test]
fn the_sendmsg_argument_is_laid_out_as_in_a5() {
    layout!(homa_sendmsg_args, 24, {
        id @ 0: u64,
        completion_cookie @ 8: u64,
        flags @ 16: u32,
        reserved @ 20: u32,
    });
    assert_eq!((HOMA_SENDMSG_PRIVATE, HOMA_SENDMSG_VALID_FLAGS), (1, 1));
}

#[test]
fn the_recvmsg_argument_is_laid_out_as_in_a6() {
    layout!(homa_recvmsg_args, 88, {
        id @ 0: u64,
        completion_cookie @ 8: u64,
        num_bpages @ 16: u32,
        reserved @ 20: u32,
        bpage_offsets @ 24: [u32; 16],
    });
}

#[test]
fn the_abort_argument_is_laid_out_as_in_a9() {
    layout!(homa_abort_args, 32, {
        id @ 0: u64,
        error @ 8: u32,
        _pad1 @ 12: u32,
        _pad2 @ 16: [u64; 2],
    });
}

#[test]
fn the_socket_state_is_laid_out_as_in_a9() {
    layout!(homa_info, 136, {
        rpc_info @ 0: u64,
        rpc_info_length @ 8: u64,
        bpool_avail_bytes @ 16: u64,
        port @ 24: u32,
        num_rpcs @ 28: u32,
        error_msg @ 32: [libc::c_char; 104],
    });
    assert_eq!(homa_info::default().error_msg, [0; HOMA_ERROR_MSG_SIZE]);
    assert_eq!(HOMA_RPC_INFO_LENGTH_LIMIT, 1 << 31);
}

#[test]
fn the_rpc_state_is_laid_out_as_in_a9() {
    layout!(homa_rpc_info, 184, {
        id @ 0: u64,
        peer @ 8: homa_sockaddr,
        completion_cookie @ 136: u64,
        tx_length @ 144: i32,
        tx_sent @ 148: u32,
        tx_granted @ 152: u32,
        tx_prio @ 156: u32,
        rx_length @ 160: i32,
        rx_remaining @ 164: u32,
        rx_gaps @ 168: u32,
        rx_gap_bytes @ 172: u32,
        rx_granted @ 176: u32,
        flags @ 180: u16,
        _pad @ 182: [u16; 1],
    });
    let flags = [
        HOMA_RPC_BUF_STALL,
        HOMA_RPC_PRIVATE,
        HOMA_RPC_RX_READY,
        HOMA_RPC_RX_COPY,
    ];
    assert_eq!(flags, [1, 2, 4, 8]);
}

#[test]
fn every_form_of_a_peer_address_starts_at_the_same_byte() {
    assert_eq!(size_of::<homa_sockaddr>(), 128);
    assert_eq!(offset_of!(homa_sockaddr, family), 0);
    assert_eq!(offset_of!(homa_sockaddr, in4), 0);
    assert_eq!(offset_of!(homa_sockaddr, in6), 0);
    assert_eq!(offset_of!(homa_sockaddr, storage), 0);
    assert_eq!(offset_of!(homa_sockaddr, bytes), 0);
    // `family` reads the field that all the socket address structures begin with.
    assert_eq!(offset_of!(libc::sockaddr_in, sin_family), 0);
    assert_eq!(offset_of!(libc::sockaddr_in6, sin6_family), 0);
    assert_eq!(offset_of!(libc::sockaddr_storage, ss_family), 0);
}

/// The generic encoding of Linux: direction, size, type, number from the top bits down.
#[cfg(any(
    target_arch = "x86",
    target_arch = "x86_64",
    target_arch = "arm",
    target_arch = "aarch64",
    target_arch = "riscv64"
))]
#[test]
fn ioctl_numbers_are_those_of_a9_and_a13() {
    const NONE: u32 = 0;
    const READ_WRITE: u32 = 3;
    let encode = |direction: u32, kind: u8, number: u32, size: usize| {
        direction << 30 | u32::try_from(size).expect("small") << 16 | u32::from(kind) << 8 | number
    };
    let (info, abort) = (size_of::<homa_info>(), size_of::<homa_abort_args>());
    let expected = [
        (
            HOMAIOCINFO,
            encode(READ_WRITE, b'h', 0x90, info),
            0xC088_6890,
        ),
        (
            HOMAIOCABORT,
            encode(READ_WRITE, b'h', 0x91, abort),
            0xC020_6891,
        ),
        (HOMAIOCFREEZE, encode(NONE, b'h', 0x92, 0), 0x0000_6892),
        (
            legacy::HOMAIOCINFO_2025,
            encode(READ_WRITE, b'h', 1, info),
            0xC088_6801,
        ),
        (
            legacy::HOMAIOCABORT_2025,
            encode(READ_WRITE, b'h', 2, abort),
            0xC020_6802,
        ),
        (
            legacy::HOMAIOCFREEZE_2025,
            encode(NONE, b'h', 3, 0),
            0x0000_6803,
        ),
        (
            legacy::HOMAIOCABORT_2022,
            encode(READ_WRITE, 0x89, 0xe3, abort),
            0xC020_89E3,
        ),
        (
            legacy::HOMAIOCFREEZE_2022,
            encode(NONE, 0x89, 0xef, 0),
            0x0000_89EF,
        ),
    ];
    for (ours, encoded, printed) in expected {
        assert_eq!(ours as u32, printed, "{ours:#x}");
        assert_eq!(encoded, printed, "{encoded:#x}");
    }
}

#[test]
fn constants_are_those_of_section_0() {
    assert_eq!(IPPROTO_HOMA, 0x92);
    assert_eq!(HOMA_MAX_MESSAGE_LENGTH, 1_000_000);
    assert_eq!((HOMA_BPAGE_SIZE, HOMA_BPAGE_SHIFT), (65_536, 16));
    assert_eq!(HOMA_MAX_BPAGES, 16);
    assert_eq!(HOMA_MIN_DEFAULT_PORT, 32_768);
    assert_eq!(HOMA_MAX_PRIORITIES, 8);
    assert_eq!(HOMA_FIRST_RPC_ID, 2);
    assert_eq!(
        (legacy::IPPROTO_HOMA_2022, legacy::IPPROTO_HOMA_2021),
        (0xFD, 140)
    );
    assert_eq!(size_of::<homa_recvmsg_args>(), 88);
    assert!(size_of::<homa_sendmsg_args>() > legacy::SENDMSG_ARGS_SIZE_2022);
}

#[test]
fn parameters_are_distinct_and_have_the_defaults_of_a14() {
    let mut names: Vec<_> = sysctl::ALL.iter().map(|parameter| parameter.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), sysctl::ALL.len());
    let lists: Vec<_> = sysctl::ALL
        .iter()
        .filter(|parameter| parameter.default.len() > 1)
        .collect();
    assert_eq!(lists, [&sysctl::PRIORITY_MAP, &sysctl::UNSCHED_CUTOFFS]);
    assert!(
        lists
            .iter()
            .all(|list| list.default.len() == HOMA_MAX_PRIORITIES)
    );
    assert_eq!(
        sysctl::GRO_POLICY.default,
        [sysctl::GRO_SAME_CORE
            | sysctl::GRO_GEN2
            | sysctl::GRO_FAST_GRANTS
            | sysctl::GRO_SHORT_BYPASS]
    );
    assert_eq!(
        sysctl::UNSCHED_CUTOFFS.default[4],
        HOMA_MAX_MESSAGE_LENGTH as i32
    );
}

#[test]
fn a_default_structure_is_all_zero() {
    assert_eq!(
        homa_recvmsg_args::default(),
        homa_recvmsg_args {
            id: 0,
            completion_cookie: 0,
            num_bpages: 0,
            reserved: 0,
            bpage_offsets: [0; 16]
        }
    );
    let rpc = homa_rpc_info::default();
    assert_eq!(
        (rpc.id, rpc.tx_length, rpc.rx_length, rpc.flags, rpc._pad),
        (0, 0, 0, 0, [0])
    );
}
