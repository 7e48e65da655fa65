//! The programs under test, loaded side by side, and the clock.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, LpmTrie, Map, MapData, ProgramArray, lpm_trie::Key},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use enforcer::kernel::{Kernel, Pins};
use enforcer_ebpf::abi::{MAP_COUNTERS, MAP_IMAGES, MAP_OPENED, MAP_REASONS};
use enforcer_policy::{
    image::{Assignment, Image, assign, counter_owners},
    model::Side,
    plan::{Desired, LinkLayer, Program, plan},
};
use enforcer_tests::cleanup::Scratch;
use ipnet::IpNet;
use nix::time::{ClockId, clock_gettime};

use crate::{case::Family, world::World};

/// Which program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// One that does nothing.
    Floor,
    /// The product's.
    Product,
    /// The product's with kernel LPM tries for membership.
    Lpm,
}

/// The product's program that is measured.
const PRODUCT: Program = Program::Ingress { side: Side::Uplink, link: LinkLayer::Ethernet };

pub(crate) struct Rig {
    kernel: Kernel,
    bench: Ebpf,
    _scratch: Scratch,
}

impl Rig {
    pub(crate) fn new(programs: &[u8]) -> Result<Self> {
        let mut scratch = Scratch::new("bench")?;
        let bpffs = scratch.bpffs("pins")?;
        let kernel = Kernel::open(&bpffs)?;
        let mut loader = EbpfLoader::new();
        for name in [MAP_IMAGES, MAP_COUNTERS, MAP_REASONS, MAP_OPENED] {
            loader.map_pin_path(name, Pins::map_below(&bpffs, name));
        }
        let mut bench = loader.load(programs).context("cannot load the bench programs")?;
        for name in ["empty", "vary4", "vary6", "lpm"] {
            classifier(&mut bench, name)?.load()?;
        }
        Ok(Self { kernel, bench, _scratch: scratch })
    }

    /// Puts a world in force, in the product's maps and in the tries.
    pub(crate) fn enforce(&mut self, world: &World) -> Result<Image> {
        let observed = self.kernel.observe()?;
        let owners = observed.active.map(|bank| counter_owners(observed.bank(bank)).to_vec());
        let counters = assign(&world.rules, &owners.unwrap_or_default())?;
        let image = Image::lower(&world.rules, &counters)?;
        let desired = Desired { words: image.words(), counters: &counters, interfaces: &[] };
        for step in plan(&observed, &desired) {
            self.kernel.apply(&step, &image)?;
        }
        self.fill_tries(world, &counters)?;
        Ok(image)
    }

    fn fill_tries(&mut self, world: &World, counters: &Assignment) -> Result<()> {
        let measured = &world.rules.policies[0].cluster;
        let slot = counters.slots().find(|(counted, _)| counted.cluster == *measured);
        let slot = slot.context("the measured cluster has no counters")?.1;
        let mut v4: LpmTrie<MapData, [u32; 2], u32> = LpmTrie::try_from(self.take("LPM4")?)?;
        let mut v6: LpmTrie<MapData, [u32; 5], u32> = LpmTrie::try_from(self.take("LPM6")?)?;
        for net in &world.ranges {
            let length = 32 + u32::from(net.prefix_len());
            match net {
                IpNet::V4(net) => {
                    let key = [slot.to_be(), u32::from(net.network()).to_be()];
                    v4.insert(&Key::new(length, key), 1, 0)?;
                }
                IpNet::V6(net) => {
                    let [a, b, c, d] = words6(net.network().octets());
                    v6.insert(&Key::new(length, [slot.to_be(), a, b, c, d]), 1, 0)?;
                }
            }
        }
        Ok(())
    }

    /// A second handle of a map of the bench object.
    fn take(&mut self, name: &str) -> Result<Map> {
        let map = self.bench.map(name).with_context(|| format!("no map {name}"))?;
        if let Map::LpmTrie(data) = map {
            return Ok(Map::LpmTrie(duplicate(data)?));
        }
        if let Map::Array(data) = map {
            return Ok(Map::Array(duplicate(data)?));
        }
        if let Map::ProgramArray(data) = map {
            return Ok(Map::ProgramArray(duplicate(data)?));
        }
        bail!("map {name} is {map:?}")
    }

    /// Sources for cold cases.
    pub(crate) fn set_sources(&mut self, sources: &[IpAddr]) -> Result<()> {
        let mut map: Array<MapData, [u32; 4]> = Array::try_from(self.take("SOURCE")?)?;
        for (index, source) in (0..).zip(sources) {
            let words = match source {
                IpAddr::V4(source) => [u32::from(*source).to_be(), 0, 0, 0],
                IpAddr::V6(source) => words6(source.octets()),
            };
            map.set(index, words, 0)?;
        }
        Ok(())
    }

    /// Nanoseconds per packet.
    pub(crate) fn run(
        &mut self,
        subject: Subject,
        cold: Option<Family>,
        packet: &[u8],
        packets: u32,
    ) -> Result<f64> {
        let name = match subject {
            Subject::Floor => "empty",
            Subject::Lpm => "lpm",
            Subject::Product => "",
        };
        let Some(family) = cold else {
            return match subject {
                Subject::Product => time(self.kernel.program(PRODUCT)?, packet, packets),
                Subject::Floor | Subject::Lpm => {
                    time(classifier(&mut self.bench, name)?, packet, packets)
                }
            };
        };
        let mut under_test: ProgramArray<MapData> =
            ProgramArray::try_from(self.take("UNDER_TEST")?)?;
        let program = match subject {
            Subject::Product => self.kernel.program(PRODUCT)?,
            Subject::Floor | Subject::Lpm => classifier(&mut self.bench, name)?,
        };
        under_test.set(0, program.fd()?, 0)?;
        let entry = match family {
            Family::V4 => "vary4",
            Family::V6 => "vary6",
        };
        time(classifier(&mut self.bench, entry)?, packet, packets)
    }

    /// Instructions that the verifier looked at, by program of the product.
    pub(crate) fn verified(&mut self) -> Result<Vec<(&'static str, u32)>> {
        let mut verified = Vec::new();
        for program in Program::ALL {
            let info = self.kernel.program(program)?.info()?;
            let count = info.verified_instruction_count().context("this kernel does not count")?;
            verified.push((program.name(), count));
        }
        Ok(verified)
    }

    /// What the product's program returns for a packet.
    pub(crate) fn verdict(&mut self, packet: &[u8]) -> Result<i32> {
        let options = TestRunOptions { data_in: Some(packet), ..TestRunOptions::new() };
        let result = self.kernel.program(PRODUCT)?.test_run(options)?;
        Ok(result.return_value.cast_signed())
    }
}

fn duplicate(data: &MapData) -> Result<MapData> {
    use std::os::fd::AsFd as _;
    Ok(MapData::from_fd(data.fd().as_fd().try_clone_to_owned()?)?)
}

pub(crate) fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name).with_context(|| format!("no program {name}"))?;
    Ok(program.try_into()?)
}

pub(crate) fn time(program: &SchedClassifier, packet: &[u8], packets: u32) -> Result<f64> {
    let options =
        TestRunOptions { data_in: Some(packet), repeat: packets, ..TestRunOptions::new() };
    // The kernel's own figure is whole nanoseconds, too coarse for a floor of some twenty. Time of
    // this thread only, so that other work on the machine does not count.
    let begin = cpu_time()?;
    program.test_run(options)?;
    Ok((cpu_time()? - begin).as_secs_f64() * 1e9 / f64::from(packets))
}

fn cpu_time() -> Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn words6(octets: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}
