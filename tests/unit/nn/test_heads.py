"""The heads of scenarios and tasks against loops."""

import torch

from lfm4ads.nn.heads import ScenarioHeads


def test_logits_are_the_formula_of_the_rows_scenario():
    torch.manual_seed(0)
    heads = ScenarioHeads(5, scenarios=3, tasks=2).double()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    h_BH = torch.randn(12, 5, dtype=torch.float64)
    scenario_B = torch.tensor([0, 1, 2, 2, 1, 0] * 2)
    found = heads(h_BH, scenario_B)
    assert found.shape == (12, 2)
    for row, scenario in enumerate(scenario_B.tolist()):
        for task in range(2):
            weights = zip(
                heads.shared[task].tolist(), heads.delta[scenario, task].tolist(), strict=True
            )
            wanted = heads.bias[scenario, task].item() + sum(
                (shared + own) * max(value, 0.0)
                for (shared, own), value in zip(weights, h_BH[row].tolist(), strict=True)
            )
            torch.testing.assert_close(found[row, task].item(), wanted)


def test_tasks_may_read_vectors_of_their_own():
    heads = ScenarioHeads(5, scenarios=3, tasks=2).double()
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter)
    h_BTH = torch.randn(12, 2, 5, dtype=torch.float64)
    scenario_B = torch.arange(12) % 3
    found = heads(h_BTH, scenario_B)
    for task in range(2):
        wanted = heads(h_BTH[:, task], scenario_B)[:, task]
        torch.testing.assert_close(found[:, task], wanted)
        assert (found[:, task] - heads(h_BTH[:, 1 - task], scenario_B)[:, task]).abs().min() > 0


def test_scenarios_agree_at_the_start_and_learn_apart():
    heads, h_BH = ScenarioHeads(5, scenarios=3, tasks=2), torch.randn(4, 5)
    first = [heads(h_BH, torch.full((4,), scenario)) for scenario in range(3)]
    assert torch.equal(first[0], first[1])
    assert torch.equal(first[0], first[2])
    assert first[0].abs().min() > 0
    first[1].sum().backward()
    for own in (heads.delta.grad, heads.bias.grad):
        assert own[1].abs().sum() > 0
        assert own[[0, 2]].abs().sum() == 0
    assert heads.shared.grad.abs().sum() > 0
