//! The decision: the matching engine over the policy maps.
//!
//! Which of the two plans is in force is read once for a decision; user space
//! never touches that plan, and the other one only after a grace period.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use shrike_agent_ebpf::{
    digest::{Digest, Dimension, Key},
    matching::Evaluation,
    plan::{DIRECTORIES_BY_IDENTITY, Entry, Identities, InForce, Plan, RuleSet, Word, depth_bit},
    record::{FLAG_PATH_UNRESOLVED, PATH_COMPONENTS_MAX, RULE_NONE},
};

use crate::{
    device::device_of,
    global::Global,
    memory::{Unreadable, atomic_or, hide, read},
    offsets::offset,
    scratch::{self, Scratch},
    walk,
};

/// The plan in force.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".data.in_force")]
static IN_FORCE: Global<InForce> = Global::new(InForce(0));

/// The plan in force and the one being built.
#[map]
static PLANS: Array<Plan> = Array::with_max_entries(2, 0);

/// Names that rules give, of both plans, and the files that were seen under
/// them. Entries are seldom made, so they are allocated one by one.
#[map]
static POLICY: HashMap<Key, Entry> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);

const BPF_F_NO_PREALLOC: u32 = 1;

/// Says which plan is in force.
#[inline(always)]
pub fn in_force() -> InForce {
    IN_FORCE.get()
}

/// Returns a plan.
#[inline(always)]
pub fn plan(in_force: InForce) -> Option<&'static Plan> {
    PLANS.get(in_force.slot())
}

/// A rule names the file or a directory above it, or nobody looked.
pub const A_RULE: u64 = 0;
/// No rule names the file; one names another file in its directory.
pub const NOT_THIS_FILE: u64 = 1;
/// No rule names the directory or anything in it.
pub const NOTHING_IN_DIRECTORY: u64 = 2;

/// Returns the generation in force.
#[inline(always)]
pub fn generation() -> u64 {
    plan(in_force()).map_or(0, |plan| plan.generation)
}

/// Decides about the file and command name in a scratch buffer, and leaves
/// generation, rule, action and mode (`outcome`: 1 for observe) there.
///
/// Returns 1 when a rule matched.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn judge(slot: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    // SAFETY: a live map value, taken by the program that calls this.
    let state = unsafe { &mut *scratch };
    state.rule = u64::from(RULE_NONE);
    state.action = 0;
    state.outcome = 0;
    state.signal_result = 0;
    state.generation = 0;
    state.concerns = A_RULE;
    state.names_children = 0;
    state.settled = 1;
    clear(&mut state.path_hits);
    let in_force = in_force();
    let plan_slot = in_force.slot();
    let Some(plan) = plan(in_force) else {
        return 0;
    };
    state.generation = plan.generation;
    state.plan_slot = u64::from(plan_slot);
    state.evaluation = Evaluation::begin(plan, state.trigger as u32, state.access as u32);
    if state.evaluation.is_over() {
        return 0;
    }
    state.seed = plan.seed;

    if state.evaluation.needs(plan, Word::Comm) {
        clear(&mut state.hits);
        let length = hide(state.comm_length);
        let name = Digest::name(state.seed, &state.comm, length as usize);
        add_hits(state, Key::new(plan_slot, Dimension::Comm, name));
        state.evaluation.narrow(plan, Word::Comm, &state.hits);
    }
    if state.evaluation.is_over() {
        return 0;
    }

    if state.evaluation.needs(plan, Word::Path) {
        clear(&mut state.hits);
        state.dimension = 0;
        state.depths_exact = plan.path_depths.exact;
        state.depths_below = plan.path_depths.below;
        state.identities = plan.flags & DIRECTORIES_BY_IDENTITY;
        let (dentry, vfsmount) = (state.target_dentry, state.target_mount);
        let resolved = match_path(slot, dentry, vfsmount).is_ok();
        if resolved {
            state.path_hits = state.hits;
        } else {
            clear(&mut state.path_hits);
        }
        let own = read::<u64>(dentry, offset!(dentry_inode)).unwrap_or(0);
        let inode = match state.target_inode {
            0 => own,
            inode => inode,
        };
        if inode != own && state.identities != 0 {
            // The path is the merged one: what is above the layer's file is
            // found by its own name.
            let alias = read::<u64>(inode, offset!(inode_names)).unwrap_or(0);
            walk::match_above(slot, alias.wrapping_sub(u64::from(offset!(dentry_alias))));
        }
        match_identity(slot, inode, Dimension::Identity as u32);
        if resolved {
            state.concerns = if is_clear(&state.hits) {
                if state.names_children == 0 {
                    NOTHING_IN_DIRECTORY
                } else {
                    NOT_THIS_FILE
                }
            } else {
                A_RULE
            };
            state.evaluation.narrow(plan, Word::Path, &state.hits);
        } else {
            state.flags |= u64::from(FLAG_PATH_UNRESOLVED);
            state.settled = 0;
            if is_clear(&state.hits) {
                state.evaluation.doubt_path(plan);
            } else {
                // The inode alone says which file it is.
                state.evaluation.narrow(plan, Word::Path, &state.hits);
            }
        }
    }
    if state.evaluation.is_over() {
        return 0;
    }

    state.settled = 0;

    if state.evaluation.needs(plan, Word::Exe) {
        clear(&mut state.hits);
        state.dimension = Dimension::ExeExact as u64;
        state.depths_exact = plan.exe_depths.exact;
        state.depths_below = plan.exe_depths.below;
        state.identities = 0;
        if match_executable(slot).is_err() {
            clear(&mut state.hits);
        }
        state.evaluation.narrow(plan, Word::Exe, &state.hits);
    }

    let Some(decision) = state.evaluation.decide(plan) else {
        return 0;
    };
    state.rule = u64::from(decision.rule);
    state.action = u64::from(decision.action);
    state.outcome = u64::from(decision.observe);
    1
}

#[inline(always)]
fn clear(hits: &mut Entry) {
    hits.rules = RuleSet::EMPTY;
    hits.exceptions = RuleSet::EMPTY;
}

#[inline(always)]
fn add_hits(state: &mut Scratch, key: Key) {
    // SAFETY: entries of a plan in force are added, but never changed or removed.
    if let Some(entry) = unsafe { POLICY.get(key) } {
        state.hits.add(entry);
    }
}

#[inline(always)]
pub fn is_clear(hits: &Entry) -> bool {
    hits.rules.is_empty() && hits.exceptions.is_empty()
}

/// Lets the rules that name a path know the file that gets the name, whatever
/// names it has beside. The word being matched is the path.
#[inline(always)]
pub fn learn(state: &mut Scratch, dentry: u64) {
    let Ok(identity) = read(dentry, offset!(dentry_inode)).and_then(identity_of) else {
        return;
    };
    let slot = state.plan_slot as u32;
    let Some(plan) = PLANS.get_ptr_mut(slot) else {
        return;
    };
    let key = identity.key(slot, Dimension::Identity as u32);
    // SAFETY: looked at only.
    if unsafe { POLICY.get(key) }.is_some() {
        return;
    }
    if POLICY.insert(key, state.path_hits, 0).is_err() {
        return;
    }
    let bit = Identities::bit(identity.inode);
    // SAFETY: a live map value.
    let words = unsafe { (&raw mut (*plan).identities).cast::<u64>() };
    // SAFETY: the bit is one of the set's.
    let word = unsafe { words.add(bit / 64) };
    // SAFETY: a live map value of one word.
    unsafe { atomic_or(word, 1 << (bit % 64)) };
}

/// A file, whatever its names.
#[derive(Clone, Copy)]
struct Identity {
    device: u32,
    generation: u32,
    inode: u64,
}

impl Identity {
    #[inline(always)]
    fn key(self, slot: u32, dimension: u32) -> Key {
        Key::of_inode(slot, dimension, self.device, self.inode, self.generation)
    }
}

/// Returns what an inode is known by.
#[inline(always)]
fn identity_of(inode: u64) -> Result<Identity, Unreadable> {
    Ok(Identity {
        device: device_of(inode)?,
        generation: read(inode, offset!(inode_generation))?,
        inode: read(inode, offset!(inode_number))?,
    })
}

/// Adds the rules that know a directory by its inode.
#[inline(always)]
pub fn match_directory(slot: u32, dentry: u64) {
    let inode = read::<u64>(dentry, offset!(dentry_inode)).unwrap_or(0);
    match_identity(slot, inode, Dimension::IdentityBelow as u32);
}

/// Adds the rules that know a file or directory by its inode.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn match_identity(slot: u32, inode: u64, dimension: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    // SAFETY: a live map value, taken by the program that calls this.
    let state = unsafe { &mut *scratch };
    let Some(plan) = PLANS.get(state.plan_slot as u32) else {
        return 0;
    };
    let Ok(identity) = identity_of(inode) else {
        return 0;
    };
    if plan.identities.may_contain(identity.inode) {
        let slot = state.plan_slot as u32;
        add_hits(state, identity.key(slot, dimension));
        let any = dimension + (Dimension::IdentityAny as u32 - Dimension::Identity as u32);
        let key = Identity {
            generation: 0,
            ..identity
        };
        add_hits(state, key.key(slot, any));
    }
    0
}

/// Matches the executable of the current process.
#[inline(always)]
fn match_executable(slot: u32) -> Result<(), Unreadable> {
    // SAFETY: no precondition.
    let task = unsafe { aya_ebpf::helpers::generated::bpf_get_current_task() };
    let mm = read::<u64>(task, offset!(task_mm))?;
    if mm == 0 {
        return Err(Unreadable);
    }
    let file = read::<u64>(mm, offset!(mm_exe_file))?;
    if file == 0 {
        return Err(Unreadable);
    }
    let dentry = read::<u64>(file, offset!(file_dentry))?;
    match_path(slot, dentry, read(file, offset!(file_mnt))?)
}

/// Gathers the rules that name a file or a directory above it, of the word
/// that the scratch buffer is set up for.
#[inline(always)]
fn match_path(slot: u32, dentry: u64, vfsmount: u64) -> Result<(), Unreadable> {
    if match_path_of(slot, dentry, vfsmount) == 0 {
        Ok(())
    } else {
        Err(Unreadable)
    }
}

/// Does what [`match_path`] says; a function of its own, so that the verifier
/// looks at it once for both words. Returns 0 when the path was resolved.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn match_path_of(slot: u32, dentry: u64, vfsmount: u64) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return -1;
    };
    if walk::start(scratch, dentry, vfsmount).is_err() || walk::digest(slot, scratch).is_err() {
        return -1;
    }
    // SAFETY: a live map value, taken by the program that calls this.
    let state = unsafe { &mut *scratch };
    state.digest = Digest::start(state.seed);
    let depth = state.depth;
    let wanted = depth_bit(depth as u32);
    if state.depths_exact & wanted == 0 && state.depths_below == 0 {
        // Neither this path nor one beside it is named.
        return 0;
    }
    let mut entered = 0;
    while entered < PATH_COMPONENTS_MAX as u64 {
        if entered >= depth {
            break;
        }
        match_step(slot, entered as u32);
        entered += 1;
    }
    if state.depths_exact & wanted != 0 {
        add_hits(state, key(state, 0));
    }
    0
}

/// Asks about one directory, then goes down into the next component.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn match_step(slot: u32, entered: u32) -> i32 {
    let Some(scratch) = scratch::get(slot) else {
        return 0;
    };
    // SAFETY: a live map value, taken by the program that calls this.
    let state = unsafe { &mut *scratch };
    if state.depths_below & depth_bit(entered) != 0 {
        add_hits(state, key(state, 1));
    }
    if u64::from(entered) + 1 == state.depth && state.depths_exact & depth_bit(entered + 1) != 0 {
        let parent = Key {
            dimension: Dimension::Parent as u32,
            ..key(state, 0)
        };
        // SAFETY: as in `add_hits`.
        state.names_children = u64::from(unsafe { POLICY.get(parent) }.is_some());
    }
    // The digests lie leaf first.
    let index = hide(state.depth.wrapping_sub(1).wrapping_sub(u64::from(entered)));
    if index >= PATH_COMPONENTS_MAX as u64 {
        return 0;
    }
    // SAFETY: `index` was checked against the array's length.
    let component = unsafe { state.digests.as_ptr().add(index as usize) };
    // SAFETY: as above.
    let component = unsafe { *component };
    state.digest = state.digest.join(component);
    0
}

/// Builds the key of the path so far; `below` is 1 for a directory.
#[inline(always)]
fn key(state: &Scratch, below: u64) -> Key {
    Key {
        a: state.digest.a,
        b: state.digest.b,
        slot: state.plan_slot as u32,
        dimension: (state.dimension + below) as u32,
    }
}
