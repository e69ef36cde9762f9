"""The unrolled network is fastMRI's chain of blocks, its parts are shared exactly as the layout says."""

import itertools
import shutil
from typing import NamedTuple

import pytest
import torch

from benchmarks.fastmri_weights import norm_unet_state
from recon.config import NetworkConfig, TrainConfig
from recon.errors import InputError
from recon.network.unet import regularise
from recon.network.unrolled import UnrolledNetwork
from recon.physics.fourier import fft, ifft
from recon.physics.operators import Cartesian, ColumnSense, Sense, to_hybrid
from recon.training.optimiser import make_optimiser
from recon.training.weighting import make_weighting

TASKS = ("PDw", "PDw-FS")


def network(layout, tasks=TASKS, channels=4, pools=2, zero_init=False, seed=0, double=False):
    torch.manual_seed(seed)
    net = UnrolledNetwork(NetworkConfig(layout=layout, channels=channels, pools=pools, zero_init=zero_init), tasks)
    with torch.no_grad():
        for block in net.blocks:
            for eta in block.etas:
                eta.uniform_(0.4, 1.2)
    return net.double() if double else net


def problem(shape=(2, 3, 18, 20), dtype=torch.complex128, seed=0, mask="columns"):
    """Centred k-space (masked), maps, mask, target of a random image."""
    batch, _, rows, columns = shape
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(*shape, generator=generator, dtype=torch.complex128)
    maps /= maps.abs().square().sum(1, keepdim=True).sqrt()
    maps[..., :3, :] = 0  # as ESPIRiT leaves it outside the object
    target = torch.randn(batch, rows, columns, generator=generator, dtype=torch.complex128)
    keep = torch.rand(batch, 1, 1 if mask == "columns" else rows, columns, generator=generator) < 0.4
    kspace = fft(maps * target[:, None]) * keep
    return kspace.to(dtype), maps.to(dtype), keep, target.to(dtype)


class Acquired(NamedTuple):
    """What a network takes beside the task, and the target."""

    operator: Cartesian
    kspace: torch.Tensor
    target: torch.Tensor

    def through(self, net, task):
        return net(self.operator, self.kspace, task)


def acquired(kspace, maps, mask, target):
    if mask.shape[-2] == 1:
        kspace, maps = to_hybrid(kspace, maps)
        return Acquired(ColumnSense(maps, mask), kspace, target)
    return Acquired(Sense(maps, mask), kspace, target)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def fastmri_chain(net, task, kspace, maps, mask):
    """fastMRI's blocks on our weights (gradients reach them), and its SENSE combination at the end."""
    varnet = pytest.importorskip("fastmri.models.varnet", reason="fastmri is not installed")
    theirs = varnet.VarNetBlock(varnet.NormUnet(net.config.channels, net.config.pools))
    reference, maps = torch.view_as_real(kspace), torch.view_as_real(maps)
    current = reference.clone()
    for block in net.blocks:
        encoder, decoder, eta = block.path(net.tasks.index(task))
        weights = {f"model.{name}": value for name, value in norm_unet_state(encoder, decoder).items()}
        weights["dc_weight"] = eta.reshape(1)
        current = torch.func.functional_call(theirs, weights, (current, reference, mask[..., None], maps), strict=True)
    return torch.view_as_complex(theirs.sens_reduce(current, maps))[:, 0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-12)])
@pytest.mark.parametrize("mask", ["columns", "general"])
@pytest.mark.parametrize("shape", [(2, 3, 18, 20), (1, 4, 21, 17)])
def test_equals_fastmris_chain_of_blocks(shape, mask, dtype, tolerance):
    net = network("IYVV", double=dtype == torch.complex128)
    kspace, maps, keep, target = problem(shape, dtype, mask=mask)
    for task in TASKS:
        with torch.no_grad():
            expected = fastmri_chain(net, task, kspace, maps, keep)
            ours = acquired(kspace, maps, keep, target).through(net, task)
        assert ours.shape == target.shape
        assert (ours - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex64, 1e-5), (torch.complex128, 1e-12)])
def test_twelve_blocks_still_equal_fastmris_chain(dtype, tolerance):
    net = network("I2V10", channels=8, double=dtype == torch.complex128)
    kspace, maps, keep, target = problem((1, 8, 64, 64), dtype)
    with torch.no_grad():
        expected = fastmri_chain(net, "PDw-FS", kspace, maps, keep)
        ours = acquired(kspace, maps, keep, target).through(net, "PDw-FS")
    assert (ours - expected).abs().max() < tolerance * expected.abs().max()


def test_gradients_equal_those_of_fastmris_chain():
    net = network("IV2", double=True)
    kspace, maps, keep, target = problem()
    used = list(net.for_task("PDw").parameters())
    ours = acquired(kspace, maps, keep, target).through(net, "PDw")
    theirs = fastmri_chain(net, "PDw", kspace, maps, keep)
    found = torch.autograd.grad((ours - target).abs().sum(), used)
    expected = torch.autograd.grad((theirs - target).abs().sum(), used)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10 * float(expected[-1].abs() + 100))


def test_the_general_path_equals_the_fast_one():
    net = network("IYV", double=True)
    kspace, maps, keep, target = problem()
    full = keep.expand(-1, -1, kspace.shape[-2], -1)
    with torch.no_grad():
        fast = acquired(kspace, maps, keep, target).through(net, "PDw")
        general = acquired(kspace, maps, full, target).through(net, "PDw")
    torch.testing.assert_close(fast, general, rtol=0, atol=1e-11)


@pytest.mark.parametrize("layout", ["I", "IYV", "I2V10"])
def test_the_untrained_network_with_zeroed_unets_gives_the_zero_filled_image(layout):
    net = UnrolledNetwork(NetworkConfig(layout=layout, channels=4, pools=2, zero_init=True), TASKS)
    kspace, maps, keep, target = problem(dtype=torch.complex64)
    zero_filled = (maps.conj() * ifft(kspace)).sum(1)
    ours = acquired(kspace, maps, keep, target).through(net, "PDw")
    torch.testing.assert_close(ours, zero_filled, rtol=0, atol=1e-6)
    (ours - target).abs().sum().backward()
    reached = net.for_task("PDw").blocks
    assert all(block.decoders[0].last.weight.grad.abs().max() > 0 for block in reached)


def gradient_blocks(net, task, kspace, maps, mask):
    """Eq. 1 of the paper, a gradient step (with momentum) and a U-Net a block; A is sigpy's, slice by slice."""
    linop = pytest.importorskip("sigpy.mri.linop", reason="sigpy is not installed")
    images = []
    for k, s, keep in zip(kspace, maps, mask, strict=True):
        operator = linop.Sense(s.numpy(), weights=keep[0].expand(k.shape[1:]).numpy().astype(float))
        x = before = torch.from_numpy(operator.H(k.numpy()))
        for block in net.blocks:
            number = net.tasks.index(task)
            encoder, decoder, eta = block.path(number)
            beta = block.betas[number if len(block.betas) > 1 else 0] if block.betas else 0
            y, before = x + beta * (x - before), x
            r = regularise(encoder, decoder, y[None], block.restore_mean)[0]
            gradient = torch.from_numpy(operator.H(operator(y.numpy()) - k.numpy()))
            x = y - eta * gradient - s.abs().square().sum(0) * r
        images.append(x)
    return torch.stack(images)


@pytest.mark.parametrize("mask", ["columns", "points"])
@pytest.mark.parametrize("consistency", ["image", "accelerated"])
@pytest.mark.parametrize("zero_init", [True, False])
def test_consistency_on_the_image_is_a_gradient_step_with_sigpys_operator_and_a_unet(mask, consistency, zero_init):
    config = NetworkConfig(layout="IYV2", channels=4, pools=2, zero_init=zero_init, consistency=consistency)
    torch.manual_seed(0)
    net = UnrolledNetwork(config, TASKS).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        kspace, maps, keep, target = problem(mask=mask)
        ours = acquired(kspace, maps, keep, target).through(net, "PDw-FS")
        theirs = gradient_blocks(net, "PDw-FS", kspace, maps, keep)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("consistency", ["k-space", "image", "accelerated"])
@pytest.mark.parametrize("zero_init", [True, False])
def test_the_image_is_zero_where_the_maps_are(consistency, zero_init):
    config = NetworkConfig(layout="IYV", channels=4, pools=2, zero_init=zero_init, consistency=consistency)
    torch.manual_seed(0)
    net = UnrolledNetwork(config, TASKS)
    kspace, maps, keep, target = problem(dtype=torch.complex64)
    maps[..., :5, :] = 0
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        image = acquired(kspace, maps, keep, target).through(net, "PDw-FS")
    assert image[:, :5].abs().max() == 0
    assert image[:, 5:].abs().min() > 0


@pytest.mark.parametrize("layout", ["I3", "Y3", "V3"])
def test_momentum_belongs_to_whom_the_step_size_belongs_and_starts_as_nesterovs(layout):
    net = UnrolledNetwork(NetworkConfig(layout=layout, channels=4, pools=2, consistency="accelerated"), TASKS)
    for number, block in enumerate(net.blocks):
        assert [beta.item() for beta in block.betas] == pytest.approx([number / (number + 3)] * len(block.etas))
    alone = net.for_task("PDw-FS")
    assert alone.blocks[2].betas[0] is net.blocks[2].betas[-1]
    data = acquired(*problem(dtype=torch.complex64))
    with torch.no_grad():
        torch.testing.assert_close(data.through(alone, "PDw-FS"), data.through(net, "PDw-FS"), rtol=0, atol=0)


@pytest.mark.parametrize("layout", ["I3", "Y3", "V3", "IYV", "VIY"])
@pytest.mark.parametrize("tasks", [("a",), ("a", "b"), ("T2.5", "FLAIR", "PDw-FS")])
def test_for_task_gives_equal_output_with_a_single_tasks_size(layout, tasks):
    net = network(layout, tasks).eval()
    single_size = parameters(network("I3", ("alone",)))
    data = acquired(*problem(dtype=torch.complex64))
    for task in tasks:
        alone = net.for_task(task)
        assert parameters(alone) == single_size
        assert alone.tasks == (task,)
        assert str(alone.layout) == "I3"
        assert not alone.training
        with torch.no_grad():
            torch.testing.assert_close(data.through(alone, task), data.through(net, task), rtol=0, atol=0)
        assert {p.data_ptr() for p in alone.parameters()} <= {p.data_ptr() for p in net.parameters()}


def test_with_one_task_every_layout_is_the_same_network():
    data = acquired(*problem(dtype=torch.complex64))
    states = [network(layout, ("only",)).state_dict() for layout in ("I3", "Y3", "V3", "IYV")]
    assert all(list(s) == list(states[0]) for s in states)
    outputs = [data.through(network(layout, ("only",)), "only") for layout in ("I3", "Y3", "V3", "IYV")]
    assert all(torch.equal(o, outputs[0]) for o in outputs)


def test_tasks_that_share_everything_get_the_same_image_and_private_ones_do_not():
    data = acquired(*problem(dtype=torch.complex64))
    with torch.no_grad():
        shared, split, heads = network("I2"), network("IV"), network("IY")
        assert torch.equal(data.through(shared, "PDw"), data.through(shared, "PDw-FS"))
        assert not torch.allclose(data.through(split, "PDw"), data.through(split, "PDw-FS"))
        assert not torch.allclose(data.through(heads, "PDw"), data.through(heads, "PDw-FS"))


def touched(net, task):
    """Names of the parameters that a loss of this task reaches."""
    net.zero_grad(set_to_none=True)
    data = acquired(*problem(dtype=torch.complex64))
    (data.through(net, task) - data.target).abs().sum().backward()
    return {name for name, p in net.named_parameters() if p.grad is not None}


def test_a_loss_reaches_its_own_tasks_parameters_and_no_others():
    net = network("IYV")
    first, second = touched(net, "PDw"), touched(net, "PDw-FS")
    assert first | second == {name for name, _ in net.named_parameters()}
    shared = {name for name in first if name.startswith(("blocks.0.", "blocks.1.encoders.", "blocks.1.etas."))}
    assert first & second == shared
    assert {name for name in first - second if name.startswith("blocks.2.")} == {
        name for name, _ in net.named_parameters() if name.startswith("blocks.2.") and name.split(".")[3] == "0"
    }


def test_no_two_parameters_share_storage():
    net = network("IYV2")
    pointers = [p.data_ptr() for p in net.parameters()]
    assert len(set(pointers)) == len(pointers)


def papers(layout, tasks=TASKS):
    with torch.device("meta"):
        return UnrolledNetwork(NetworkConfig(layout=layout), tasks)


def test_the_papers_shared_network_has_a_single_task_networks_size():
    single, shared = papers("I12", ("PDw",)), papers("I12")
    assert parameters(shared) == parameters(single)
    # The paper's public code reports 29,452,070: the same, and the two log variances of its uncertainty weighting.
    assert parameters(shared) == 29_452_070 - 2


def test_ten_split_blocks_hold_ten_private_unets_a_task_and_none_by_accident():
    single, split = parameters(papers("I12", ("PDw",))), papers("I2V10")
    assert parameters(split) == single * 22 // 12
    for block, kind in zip(split.blocks, split.layout.kinds, strict=True):
        copies = 2 if kind == "V" else 1
        assert (len(block.encoders), len(block.decoders), len(block.etas)) == (copies,) * 3
    unets = [m for block in split.blocks for m in itertools.chain(block.encoders, block.decoders, block.etas)]
    assert len({id(unet) for unet in unets}) == 3 * (2 + 2 * 10)
    assert all(parameters(split.for_task(task)) == single for task in TASKS)


def test_multi_head_blocks_share_encoder_and_eta():
    heads = papers("I2Y10")
    # The paper's public code reports 39,091,450 with two log variances.
    assert parameters(heads) == 39_091_450 - 2
    for block in list(heads.blocks)[2:]:
        assert (len(block.encoders), len(block.decoders), len(block.etas)) == (1, 2, 1)


def test_etas_start_at_one_and_are_learnt():
    net = UnrolledNetwork(NetworkConfig(layout="IYV", channels=2, pools=1), TASKS)
    etas = [eta for block in net.blocks for eta in block.etas]
    assert [eta.item() for eta in etas] == [1.0] * 4
    assert all(eta.requires_grad for eta in etas)


def test_load_task_copies_a_single_task_network_into_one_path():
    net, single = network("IV", seed=1), network("I2", ("PDw",), seed=2)
    before = net.for_task("PDw").blocks[1].encoders[0].levels[0].first.weight.clone()
    net.load_task("PDw-FS", single)
    data = acquired(*problem(dtype=torch.complex64))
    with torch.no_grad():
        assert torch.equal(data.through(net, "PDw-FS"), data.through(single, "PDw"))
    assert torch.equal(net.for_task("PDw").blocks[1].encoders[0].levels[0].first.weight, before)
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in single.parameters()}


@pytest.mark.parametrize(
    "other",
    [
        network("I3", ("a",)),
        network("I2", ("a",), channels=5),
        network("I2", ("a",), pools=1),
        network("I2", ("a",), zero_init=True),
        network("I2"),
    ],
)
def test_load_task_refuses_another_size(other):
    wanted = "2 blocks with k-space consistency and fastMRI's U-Nets of 4 channels and 2 poolings for one task"
    with pytest.raises(InputError, match=f"{wanted} is wanted"):
        network("IV").load_task("PDw", other)


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="knows the tasks PDw, PDw-FS; found 'T2'"):
        acquired(*problem(dtype=torch.complex64)).through(network("I"), "T2")
    with pytest.raises(InputError, match="each named once"):
        UnrolledNetwork(NetworkConfig(layout="I"), ("a", "a"))


def test_runs_under_autocast_and_stays_complex():
    net = network("IV")
    data = acquired(*problem(dtype=torch.complex64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = data.through(net, "PDw")
        (output - data.target).abs().sum().backward()
    assert output.dtype == torch.complex64
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


def test_an_empty_slice_gives_an_empty_image_and_finite_gradients():
    net = network("IV")
    kspace, maps, keep, target = problem(dtype=torch.complex64)
    kspace[0] = 0
    data = acquired(kspace, maps, keep, target)
    output = data.through(net, "PDw")
    assert output[0].abs().max() < 1e-6
    output.abs().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("steps", [0, 5])
def test_after_a_sense_start_the_blocks_are_still_fastmris(steps):
    varnet = pytest.importorskip("benchmarks.varnet", reason="fastmri is not installed")
    torch.manual_seed(0)
    config = NetworkConfig(layout="I3", channels=4, pools=2, zero_init=False, sense_steps=steps)
    net = UnrolledNetwork(config, ["PDw"]).double()
    kspace, maps, keep, target = problem()
    # Where Σ|s|² is 0 or 1, the SENSE combination of an image's coils is the image.
    theirs = varnet.FastMRIChain.like(net).double()
    with torch.no_grad():
        ours = acquired(kspace, maps, keep, target).through(net, "PDw")
        expected = theirs(torch.view_as_real(kspace), keep[..., None], torch.view_as_real(maps))
    assert (ours - expected).abs().max() < 1e-12 * expected.abs().max()


def untrained(layout, sense_steps, consistency="accelerated"):
    torch.manual_seed(0)
    config = NetworkConfig(layout=layout, channels=2, pools=1, consistency=consistency, sense_steps=sense_steps)
    return UnrolledNetwork(config, TASKS).double()


@pytest.mark.parametrize("mask", ["columns", "general"])
def test_sense_steps_are_untrained_accelerated_blocks_without_a_u_net(mask):
    data = acquired(*problem(mask=mask))
    with torch.no_grad():
        blocks = data.through(untrained("I9", 0), "PDw")
        steps = data.through(untrained("I2", 7), "PDw")
    # The momenta are single-precision numbers in blocks.
    torch.testing.assert_close(steps, blocks, rtol=0, atol=1e-7)


@pytest.mark.parametrize("consistency", ["k-space", "image", "accelerated"])
def test_many_sense_steps_end_at_sigpys_sense_reconstruction(consistency):
    app = pytest.importorskip("sigpy.mri.app")
    kspace, maps, keep, target = problem((1, 4, 18, 20))
    with torch.no_grad():
        ours = acquired(kspace, maps, keep, target).through(untrained("I", 1500, consistency), "PDw")[0]
    theirs = app.SenseRecon(kspace[0].numpy(), maps[0].numpy(), max_iter=300, show_pbar=False).run()
    support = (maps[0].abs().sum(0) > 0).numpy()
    error = abs(ours.numpy() - theirs)[support].max() / abs(theirs).max()
    assert error < 1e-3


def test_no_gradient_flows_through_the_sense_start_and_the_momenta_count_on():
    net = untrained("IV", 6)
    kspace, maps, keep, target = problem()
    kspace.requires_grad_()
    acquired(kspace, maps, keep, target).through(net, "PDw").abs().sum().backward()
    assert kspace.grad is None or not kspace.grad.any()
    assert [beta.item() for block in net.blocks for beta in block.betas] == pytest.approx([6 / 9, 7 / 10, 7 / 10])


def test_a_sense_start_learns_nothing_of_its_own_and_holds_on_a_tasks_own_path():
    net = untrained("IYV", 5)
    assert parameters(net) == parameters(untrained("IYV", 0))
    data = acquired(*problem())
    alone = net.for_task("PDw-FS")
    assert alone.config.sense_steps == 5
    with torch.no_grad():
        assert torch.equal(data.through(alone, "PDw-FS"), data.through(net, "PDw-FS"))


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"sense_steps": 4}, "after 4 SENSE steps"),
        ({"consistency": "image"}, "image consistency"),
        ({"zero_init": False}, "fastMRI's U-Nets"),
        ({"padding": "least"}, "padded least"),
    ],
)
def test_weights_of_another_start_consistency_or_u_net_are_refused(changed, word):
    mine = NetworkConfig(layout="I2", channels=2, pools=1, consistency="accelerated")
    other = UnrolledNetwork(mine.model_copy(update=changed), ["a"])
    with pytest.raises(InputError, match=word):
        UnrolledNetwork(mine, TASKS).load_task("PDw", other)


def trained(net, data, task="PDw-FS"):
    """Output and gradients by name of a training step's loss."""
    net.zero_grad(set_to_none=True)
    output = data.through(net.train(), task)
    (output - data.target).abs().sum().backward()
    return output.detach(), {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def of_padding(padding, pools=2, consistency="k-space"):
    torch.manual_seed(0)
    config = NetworkConfig(
        layout="IYV", channels=4, pools=pools, zero_init=False, padding=padding, consistency=consistency
    )
    return UnrolledNetwork(config, TASKS)


@pytest.mark.parametrize(("size", "pools", "equal"), [((32, 48), 2, True), ((20, 28), 2, False), ((21, 19), 3, False)])
def test_least_padding_is_the_same_network_where_sizes_are_multiples_of_16(size, pools, equal):
    data = acquired(*problem((1, 3, *size), dtype=torch.complex64))
    with torch.no_grad():
        fastmri, least = (data.through(of_padding(padding, pools), "PDw") for padding in ("fastmri", "least"))
    assert least.shape == fastmri.shape
    assert torch.equal(least, fastmri) == equal


def test_weights_of_another_padding_are_refused():
    with pytest.raises(InputError, match="padded least"):
        of_padding("fastmri").load_task("PDw", of_padding("least").for_task("PDw"))


@pytest.mark.parametrize("consistency", ["k-space", "image", "accelerated"])
def test_the_memory_saver_gives_equal_output_and_gradients(consistency):
    data = acquired(*problem(dtype=torch.complex64))
    net = of_padding("fastmri", consistency=consistency)
    output, gradients = trained(net, data)
    saved_output, saved = trained(net.train_as(memory_saver=True), data)
    assert torch.equal(output, saved_output)
    assert gradients.keys() == saved.keys()
    assert all(torch.equal(gradients[name], saved[name]) for name in gradients)


def test_the_memory_saver_keeps_less_for_the_backward_pass():
    data = acquired(*problem(dtype=torch.complex64))

    def kept(net):
        seen = {}

        def pack(tensor):
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            data.through(net.train(), "PDw")
        return sum(seen.values())

    net = of_padding("fastmri")
    assert kept(net.train_as(memory_saver=True)) < 0.3 * kept(net.train_as())


def test_bfloat16_is_near_single_precision_in_training_and_absent_in_evaluation():
    data = acquired(*problem(dtype=torch.complex64))
    net = of_padding("fastmri")
    output, gradients = trained(net, data)
    rough, rough_gradients = trained(net.train_as(precision="bfloat16"), data)
    assert rough.dtype == torch.complex64
    assert 1e-5 < (rough - output).abs().max() / output.abs().max() < 0.05
    for name, gradient in gradients.items():
        assert rough_gradients[name].dtype == torch.float32
        if gradient.ndim == 4:
            cosine = torch.cosine_similarity(gradient.flatten(), rough_gradients[name].flatten(), dim=0)
            assert cosine > 0.9, name
    with torch.no_grad():
        assert torch.equal(data.through(net.eval(), "PDw-FS"), output)


def test_compiling_without_a_compiler_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="needs a C\\+\\+ compiler, and no-such-compiler is not here"):
        network("I").train_as(compile=True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_compiled_unets_give_equal_output_and_gradients():
    data = acquired(*problem(dtype=torch.complex64))
    net = network("I2")
    output, gradients = trained(net, data)
    compiled, found = trained(net.train_as(compile=True), data)
    assert (compiled - output).abs().max() < 1e-5 * output.abs().max()
    for name, gradient in gradients.items():
        assert (found[name] - gradient).abs().max() < 1e-2 * gradient.abs().max() + 1e-5, name


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_weights_in_either_order_of_axes_take_equal_steps_and_store_equal_states(optimiser):
    data = acquired(*problem(dtype=torch.complex128))
    config = TrainConfig(tasks=TASKS, optimiser=optimiser, learning_rate=1e-2)
    first, last = network("IV", double=True), network("IV", double=True).to(memory_format=torch.channels_last)
    for net in (first, last):
        stepper = make_optimiser(config, net, make_weighting(config.weighting, TASKS, dict.fromkeys(TASKS, 1)))
        for _ in range(2):
            trained(net, data)
            stepper.step()
    for name, value in first.state_dict().items():
        torch.testing.assert_close(last.state_dict()[name], value, rtol=0, atol=1e-9, check_stride=False)
    fresh = network("IV", double=True)
    fresh.load_state_dict(last.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(data.through(fresh, "PDw"), data.through(first, "PDw"), rtol=0, atol=1e-8)


@pytest.mark.parametrize("consistency", ["k-space", "accelerated"])
@pytest.mark.parametrize("steps", [1, 6])
def test_the_sense_start_is_accelerated_gradient_descent_with_sigpys_operator(steps, consistency):
    linop = pytest.importorskip("sigpy.mri.linop", reason="sigpy is not installed")
    config = NetworkConfig(layout="I", channels=2, pools=1, consistency=consistency, sense_steps=steps)
    net = UnrolledNetwork(config, TASKS).double()
    kspace, maps, keep, target = problem()
    before = kspace.clone()
    with torch.no_grad():
        for eta in net.blocks[0].etas:
            eta.zero_()
        for beta in net.blocks[0].betas:
            beta.zero_()
        ours = acquired(kspace, maps, keep, target).through(net, "PDw")
    assert torch.equal(kspace, before)
    for n in range(len(kspace)):
        operator = linop.Sense(maps[n].numpy(), weights=keep[n, 0].expand(kspace.shape[2:]).numpy().astype(float))
        x = previous = operator.H(kspace[n].numpy())
        for number in range(steps):
            y = x + number / (number + 3) * (x - previous)
            x, previous = y - operator.H(operator(y) - kspace[n].numpy()), x
        torch.testing.assert_close(ours[n], torch.from_numpy(x), rtol=0, atol=1e-11)
