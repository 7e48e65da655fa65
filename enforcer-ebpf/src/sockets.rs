//! BPF only: the sockets of a pod, as the kernel knows them.

use core::mem::zeroed;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock, bpf_sock_tuple},
    helpers::{bpf_jiffies64, bpf_sk_fullsock, bpf_sk_release, bpf_skc_lookup_tcp},
    programs::TcContext,
};
use enforcer_ebpf::{
    abi::{ANSWERS_PER_WINDOW, Asked, EgressEntry, Listened},
    address::Address,
    leave::{Connection, Sender, Sockets, state},
};

use crate::maps;

const IPPROTO_TCP: u32 = 6;

/// Those of the pod behind one interface.
pub(crate) struct PodSockets<'a> {
    pub(crate) ctx: &'a TcContext,
    pub(crate) entry: &'a EgressEntry,
    /// Whether nothing must be remembered of what is asked.
    pub(crate) dry: bool,
}

impl Sockets for PodSockets<'_> {
    /// The socket stays with the packet on its way out of the pod's namespace (`skb_scrub_packet`,
    /// net/core/skbuff.c, since Linux 4.19).
    #[inline(always)]
    fn sender(&self) -> Sender {
        // SAFETY: the context is the one of this call.
        let socket = unsafe { (*self.ctx.skb.skb).__bindgen_anon_2.sk };
        if socket.is_null() {
            return Sender::default();
        }
        // SAFETY: not null.
        let socket = unsafe { bpf_sk_fullsock(socket) };
        if socket.is_null() {
            return Sender::default();
        }
        // SAFETY: a whole socket, which lives as long as the packet.
        let bpf_sock { protocol, src_port, dst_port, state, .. } = unsafe { &*socket };
        if *protocol != IPPROTO_TCP {
            return Sender::default();
        }
        Sender { state: *state, local: *src_port as u16, remote: u16::from_be(*dst_port) }
    }

    #[inline(always)]
    fn owner<A: Address>(&self, connection: &Connection<A>) -> u32 {
        let Connection { local, remote, local_port, remote_port } = *connection;
        self.look_up(local, local_port, remote.mapped(), remote_port)
    }

    #[inline(always)]
    fn listens<A: Address>(&self, local: A, port: u16) -> bool {
        let nobody = if A::IS_V4 { [0, 0xffff << 32] } else { [0, 0] };
        let found = self.look_up(local, port, nobody, 0) == state::LISTEN;
        if found && !self.dry {
            maps::remember_listened(&self.listened_key(port));
        }
        found
    }

    #[inline(always)]
    fn listened(&self, port: u16) -> bool {
        maps::is_listened(&self.listened_key(port))
    }

    #[inline(always)]
    fn asks<A: Address>(&self, resolver: A, cluster: u32) {
        if !self.dry {
            maps::note_asked(&Asked { resolver: resolver.mapped(), cluster, reserved: 0 });
        }
    }

    #[inline(always)]
    fn may_reset(&self) -> bool {
        if self.dry {
            return true;
        }
        // SAFETY: a helper without arguments.
        let ticks = unsafe { bpf_jiffies64() };
        maps::answered(maps::RESETS).is_some_and(|pace| pace.admits(ticks, ANSWERS_PER_WINDOW))
    }
}

impl PodSockets<'_> {
    #[inline(always)]
    fn listened_key(&self, port: u16) -> Listened {
        Listened { interface: self.entry.interface, port: port.into() }
    }

    /// State of the socket that would receive a segment from the remote end, 0 if none would.
    #[inline(always)]
    fn look_up<A: Address>(&self, local: A, port: u16, remote: [u64; 2], remote_port: u16) -> u32 {
        let local = local.mapped();
        let skb: *mut __sk_buff = self.ctx.skb.skb;
        // SAFETY: numbers alone, of which zeroes are a value.
        let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
        let size = if A::IS_V4 {
            tuple.__bindgen_anon_1.ipv4.saddr = (remote[1] as u32).to_be();
            tuple.__bindgen_anon_1.ipv4.daddr = (local[1] as u32).to_be();
            tuple.__bindgen_anon_1.ipv4.sport = remote_port.to_be();
            tuple.__bindgen_anon_1.ipv4.dport = port.to_be();
            SIZE4
        } else {
            tuple.__bindgen_anon_1.ipv6.saddr = words(remote);
            tuple.__bindgen_anon_1.ipv6.daddr = words(local);
            tuple.__bindgen_anon_1.ipv6.sport = remote_port.to_be();
            tuple.__bindgen_anon_1.ipv6.dport = port.to_be();
            SIZE6
        };
        // SAFETY: a tuple of this size, and a number of a network namespace or u32::MAX.
        let socket = unsafe {
            bpf_skc_lookup_tcp(skb.cast(), &raw mut tuple, size, self.entry.netns.into(), 0)
        };
        if socket.is_null() {
            return 0;
        }
        // SAFETY: found, and held until it is released below.
        let state = unsafe { (*socket).state };
        // SAFETY: found above, not released yet.
        unsafe { bpf_sk_release(socket.cast()) };
        state
    }
}

/// Bytes of the tuples of both families (include/uapi/linux/bpf.h).
const SIZE4: u32 = 12;
const SIZE6: u32 = 36;

#[inline(always)]
fn words([high, low]: [u64; 2]) -> [u32; 4] {
    [high >> 32, high, low >> 32, low].map(|word| (word as u32).to_be())
}
