//! Loading the object: maps found by their pins or created, programs loaded anew and pinned.

use std::{fs, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    maps::{ArrayOfMaps, Map, MapData, MapError, PerCpuArray},
    programs::SchedClassifier,
};
use enforcer_ebpf::{
    abi::{
        CLUSTERS, Counters, MAP_ANSWERED, MAP_ASKED, MAP_COUNTERS, MAP_EVENTS, MAP_GRACE,
        MAP_IMAGES, MAP_LISTENED, MAP_OPENED, MAP_REASONS, MAP_RECENT, MAP_SUPPRESSED,
    },
    verdict::Reason,
};
use enforcer_policy::plan::Program;

use super::{CounterTable, KernelError, Layout, Pins, attach::ProgramIds, banks::Banks, features};
use crate::fault;

/// Maps that the programs share with the agent.
const MAPS: [&str; 11] = [
    MAP_IMAGES,
    MAP_GRACE,
    MAP_COUNTERS,
    MAP_REASONS,
    MAP_OPENED,
    MAP_LISTENED,
    MAP_EVENTS,
    MAP_SUPPRESSED,
    MAP_ANSWERED,
    MAP_RECENT,
    MAP_ASKED,
];

/// What loading gives.
pub(super) struct Loaded {
    pub(super) banks: Banks,
    pub(super) counters: CounterTable,
    pub(super) programs: Programs,
}

/// The programs of this build.
pub(super) struct Programs {
    /// Keeps the object's programs.
    object: Ebpf,
    /// The same once more, loaded when a program must hang twice on a hook for a moment.
    twin: Option<Ebpf>,
    ids: ProgramIds,
    layout: Layout,
}

impl Programs {
    /// One of them.
    pub(super) fn of(&mut self, program: Program) -> Result<&mut SchedClassifier, KernelError> {
        classifier(&mut self.object, program.name())
    }

    /// Their numbers in the kernel.
    pub(super) fn ids(&self) -> &ProgramIds {
        &self.ids
    }

    /// A copy of a program that does not hang at this place; the kernel takes each only once there.
    pub(super) fn spare(
        &mut self,
        pins: &Pins,
        program: Program,
        hangs: impl Fn(u32) -> bool,
    ) -> Result<&mut SchedClassifier, KernelError> {
        let name = program.name();
        if !hangs(id(classifier(&mut self.object, name)?, name)?) {
            return classifier(&mut self.object, name);
        }
        let twin = match &mut self.twin {
            Some(twin) => twin,
            empty => empty.insert(open_object(pins, self.layout)?),
        };
        let copy = classifier(twin, name)?;
        if copy.fd().is_err() {
            copy.load().map_err(|source| features::of_program(name, source))?;
            self.ids.insert(id(copy, name)?, program);
        }
        classifier(twin, name)
    }
}

fn id(program: &SchedClassifier, name: &'static str) -> Result<u32, KernelError> {
    let info = program.info().map_err(|source| KernelError::Program {
        action: "read",
        name: name.to_owned(),
        source: Box::new(source),
    })?;
    Ok(info.id())
}

fn open_object(pins: &Pins, layout: Layout) -> Result<Ebpf, KernelError> {
    let mut loader = EbpfLoader::new();
    for name in MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(layout.object()).map_err(features::of_object)
}

/// Loads the embedded object against the pinned maps.
pub(super) fn load(pins: &Pins, layout: Layout) -> Result<Loaded, KernelError> {
    let mut object = open_object(pins, layout)?;
    let mut ids = ProgramIds::new();
    for kind in Program::ALL {
        fault::point("a program is about to be loaded");
        let path = pins.program(kind);
        let name = kind.name();
        let program = classifier(&mut object, name)?;
        program.load().map_err(|source| features::of_program(name, source))?;
        replace_pin(&path, |path| {
            program.pin(path).map_err(|source| KernelError::PinObject {
                path: path.into(),
                source: Box::new(source),
            })
        })?;
        ids.insert(id(program, name)?, kind);
    }
    take(&mut object, pins, (MAP_IMAGES, layout.values()), Ok)?;
    let grace =
        take(&mut object, pins, (MAP_GRACE, (size_of::<u32>() as u32, 1)), ArrayOfMaps::try_from)?;
    let clusters = take(
        &mut object,
        pins,
        (MAP_COUNTERS, (size_of::<Counters>() as u32, CLUSTERS)),
        PerCpuArray::try_from,
    )?;
    let reasons = take(
        &mut object,
        pins,
        (MAP_REASONS, (size_of::<u64>() as u32, Reason::ALL.len() as u32)),
        PerCpuArray::try_from,
    )?;
    Ok(Loaded {
        banks: Banks::open(pins, grace)?,
        counters: CounterTable::new(clusters, reasons),
        programs: Programs { object, twin: None, ids, layout },
    })
}

fn classifier<'a>(
    object: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let missing = || KernelError::Program {
        action: "find",
        name: name.to_owned(),
        source: Box::new(aya::programs::ProgramError::NotLoaded),
    };
    let program = object.program_mut(name).ok_or_else(missing)?;
    program.try_into().map_err(|source| KernelError::Program {
        action: "use",
        name: name.to_owned(),
        source: Box::new(source),
    })
}

/// Takes a map out of the object and checks that the pin it came from has the size of values and the
/// entries of this build's: aya accepts any pinned map.
fn take<M>(
    object: &mut Ebpf,
    pins: &Pins,
    (name, (value_size, max_entries)): (&'static str, (u32, u32)),
    typed: impl FnOnce(Map) -> Result<M, MapError>,
) -> Result<M, KernelError> {
    let failed = |source| KernelError::Map { action: "open", name, source: Box::new(source) };
    let map = object
        .take_map(name)
        .ok_or_else(|| failed(MapError::InvalidName { name: name.to_owned() }))?;
    let path = pins.map(name);
    let pinned = MapData::from_pin(&path).and_then(|data| data.info()).map_err(failed)?;
    if pinned.value_size() != value_size || pinned.max_entries() != max_entries {
        return Err(KernelError::Layout { path });
    }
    typed(map).map_err(failed)
}

/// Pins under a name of its own, then renames, so that the path always leads to a whole object.
fn replace_pin(
    path: &Path,
    pin: impl FnOnce(&Path) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    // No dots: bpffs reserves them (bpf_lookup, kernel/bpf/inode.c).
    let beside = path.with_file_name("program-new");
    let failed = |action| {
        let path = path.to_owned();
        move |source| KernelError::Pin { action, path, source }
    };
    if beside.exists() {
        fs::remove_file(&beside).map_err(failed("remove"))?;
    }
    pin(&beside)?;
    fault::point("a program is pinned beside its former one");
    fs::rename(&beside, path).map_err(failed("replace"))
}
