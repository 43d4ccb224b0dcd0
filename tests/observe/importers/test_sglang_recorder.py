"""The files of SGLang's expert distribution recorder, and what is ambiguous in them."""

import dataclasses

import pytest
import torch

from foreign import SHAPE, UNNAMED, assert_holds, choices, save_pt, write
from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.megatron import import_megatron
from headgate.observe.importers.sglang import import_sglang
from headgate.observe.importers.shape import RouterShape


def test_sglang_stat_is_summed_already(tmp_path):
    counts = torch.arange(2 * 4 * 8, dtype=torch.int32).view(2, 4, 8)
    counts[:, 0] = 0
    path = save_pt(
        tmp_path / "a.pt", {"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None}
    )
    for shape in (SHAPE, UNNAMED):
        trace = import_sglang([path], shape)
        assert trace.layer_index.tolist() == [1, 2, 3]
        assert torch.equal(trace.counts, counts.sum(0)[1:].long())
        assert (trace.num_tokens, trace.metadata["content"]) == (0, "counts")
    with pytest.raises(InputError, match=r"files \(=2\) of mode stat are summed over the ranks already, and several"):
        import_sglang([path, path], SHAPE)


TO_LOGICAL = torch.tensor([[3, 1, 0, 2, 3, 4, 5, 6, 7, 1]]).repeat(4, 1)  # Experts 1 and 3 have two places each.


def test_sglang_passes_are_summed_over_ranks_by_the_map(tmp_path):
    physical = torch.arange(40).view(4, 10)
    paths = [
        save_pt(
            tmp_path / f"{rank}.pt",
            {
                "records": [{"forward_pass_id": 0, "rank": rank, "global_physical_count": physical * (rank + 1)}],
                "last_physical_to_logical_map": TO_LOGICAL,
            },
        )
        for rank in range(2)
    ]
    trace = import_sglang(paths, SHAPE)
    assert trace.counts[0, 3].item() == 3 * (10 + 14)
    assert trace.counts.sum().item() == 3 * physical[1:].sum().item()


def token_record(tokens=6, **changes):
    physical = torch.full((4, tokens, 8), -1, dtype=torch.int32)
    ids = torch.from_numpy(choices(tokens, experts=6)).transpose(0, 1)
    physical[1:, :, :2] = ids.int() + 2  # Places 2 to 7, each of an expert of its own.
    return {
        "forward_pass_id": 0,
        "rank": 0,
        "input_ids": torch.arange(tokens),
        "positions": torch.tensor([0, 1, 2, 5, 6, 7][:tokens]),
        "extend_seq_lens": [3, 3],
        "forward_mode": 1,
        "topk_ids_of_layer": physical,
        **changes,
    }


def test_sglang_tokens_become_logical(tmp_path):
    path = save_pt(tmp_path / "a.pt", {"records": [token_record()], "last_physical_to_logical_map": TO_LOGICAL})
    trace = import_sglang([path], SHAPE)
    assert_holds(trace, TO_LOGICAL[0][torch.from_numpy(choices(6, experts=6)) + 2], tmp_path)
    assert trace.seq_offsets.tolist() == [0, 3, 6]
    assert trace.position.tolist() == [0, 1, 2, 5, 6, 7]
    assert trace.token_ids.tolist() == [0, 1, 2, 3, 4, 5]


def fused():
    record = token_record()
    record["topk_ids_of_layer"][1:, :, 2] = 9
    return record


@pytest.mark.parametrize(
    ("dump", "shape", "said"),
    [
        (
            {"records": [token_record()]},
            SHAPE,
            "has physical ids and no last_physical_to_logical_map, so what they are",
        ),
        (
            {"records": [fused()], "last_physical_to_logical_map": TO_LOGICAL},
            SHAPE,
            "has more than 2 choices per token: with shared experts fused the recorder mixes them in",
        ),
        (
            {"records": [token_record()], "last_physical_to_logical_map": TO_LOGICAL},
            RouterShape(num_experts=64, top_k=9, num_layers=4, moe_layers=(1, 2, 3)),
            r"top_k \(=9\) is more than the 8 choices that the recorder keeps; they are cut off",
        ),
        (
            {"records": [token_record()], "last_physical_to_logical_map": TO_LOGICAL[:, :5]},
            SHAPE,
            r"physical ids do not fit the map of shape \(4, 5\); the map may have changed meanwhile",
        ),
        ({"records": [], "last_physical_to_logical_map": TO_LOGICAL}, SHAPE, "holds no record; was anything recorded"),
        (
            {
                "records": [{"global_physical_count": torch.ones(4, 10, dtype=torch.int32)}],
                "last_physical_to_logical_map": TO_LOGICAL + 1,
            },
            SHAPE,
            r"the map of physical to logical ids has shape \(4, 10\) and ids up to 8, for \(4, 10\) and 8 experts",
        ),
        ({"logical_count": torch.zeros(1, 4, 8, dtype=torch.int32)}, SHAPE, "holds no count above 0"),
        ({"logical_count": torch.full((1, 4, 8), -1)}, SHAPE, "has counts below 0, so they have run over"),
    ],
)
def test_sglang_recordings_that_are_ambiguous(tmp_path, dump, shape, said):
    with pytest.raises(InputError, match=said):
        import_sglang([save_pt(tmp_path / "a.pt", dump)], shape)


@pytest.mark.parametrize(
    ("dump", "said"),
    [
        ([1], "is no dump of the expert distribution recorder"),
        ({"records": 3}, "has no list of records"),
        ({"logical_count": torch.zeros(4, 8)}, "logical_count is not an array of integers with 3 axes"),
        (
            {"records": [token_record(extend_seq_lens=[3, 4])], "last_physical_to_logical_map": TO_LOGICAL},
            "extend_seq_lens do not add up to the 6 tokens",
        ),
        (
            {"records": [token_record(input_ids=torch.arange(5))], "last_physical_to_logical_map": TO_LOGICAL},
            "a record has 6 routed tokens and 5 input_ids",
        ),
    ],
)
def test_sglang_recordings_that_are_damaged(tmp_path, dump, said):
    with pytest.raises(ArtifactError, match=said):
        import_sglang([save_pt(tmp_path / "a.pt", dump)], SHAPE)


class Harmful:
    """What a pickle could do: call anything."""

    def __reduce__(self):
        return print, ("called",)


def test_code_in_a_pt_file_is_never_run(tmp_path, capsys):
    path = save_pt(tmp_path / "a.pt", {"logical_count": Harmful()})
    for read in (lambda: import_sglang([path], SHAPE), lambda: import_megatron([path], SHAPE)):
        with pytest.raises(ArtifactError, match=r"it is damaged, or holds code, which is never run"):
            read()
    assert capsys.readouterr().out == ""


def test_sglang_older_csv_per_rank(tmp_path):
    paths = [
        write(tmp_path / f"{rank}.csv", f"layer_id,expert_id,count\n1,0,{rank + 1}\n1,7,5\n3,2,1\n")
        for rank in range(2)
    ]
    trace = import_sglang(paths, UNNAMED)
    assert trace.layer_index.tolist() == [1, 3]
    assert trace.counts.tolist() == [[3, 0, 0, 0, 0, 0, 0, 10], [0, 0, 2, 0, 0, 0, 0, 0]]
    with pytest.raises(InputError, match=r"expert id 8 is outside \[0, 8\); give the right --experts"):
        import_sglang([write(tmp_path / "b.csv", "1,8,1\n")], UNNAMED)
    dense = write(tmp_path / "dense.csv", "0,0,0\n1,1,1\n")
    assert import_sglang([dense], SHAPE).layer_index.tolist() == [1]
    with pytest.raises(InputError, match=r"dense.csv has the layers \[1\], and experts are in \[2\] by --config or"):
        import_sglang([dense], dataclasses.replace(SHAPE, moe_layers=(2,)))
    with pytest.raises(ArtifactError, match=r"line 2 is not layer_id,expert_id,count; export it again"):
        import_sglang([write(tmp_path / "b.csv", "1,1,1\n1,x,1\n")], UNNAMED)
    with pytest.raises(InputError, match=r"files end in \['.csv', '.pt'\] and must all be .json or .jsonl, or .pt, or"):
        import_sglang([paths[0], tmp_path / "a.pt"], UNNAMED)
