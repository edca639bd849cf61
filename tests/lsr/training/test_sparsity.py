"""lsr/training/sparsity.py: ramps, and the controller on simulations of training."""

import json
import math
import random

import pytest

from lsr.training.sparsity import Fixed, Target


def test_fixed_ramps_by_the_square_of_steps():
    strength = Fixed(8.0, ramp_steps=4)
    values = []
    for _ in range(6):
        values.append(strength.value())
        strength.observe(100.0, 1.0, 1.0)
        strength.step(pace=0.5)
    assert values == [0.0, 0.5, 2.0, 4.5, 8.0, 8.0]
    assert Fixed(3.0).value() == 3.0


class Training:
    """A simulation of training: the ranking loss adds terms, the penalty removes them.

    log n moves at most `speed` a step, as under Adam, by the difference of the two forces: log of
    how far n is below 30,000, and `force` · λ · penalty / ranking loss.
    """

    def __init__(self, terms, speed=0.02, force=20.0, loss=1.0, revival=1.0, noise=0.1, seed=0):
        self.terms, self.speed, self.force, self.loss = terms, speed, force, loss
        self.revival = revival  # how much faster terms die than they come back
        self.noise = noise
        self.random = random.Random(seed)

    def step(self, weight, pace=1.0):
        penalty = 1e-4 * self.terms**2
        force = math.log(30_000 / self.terms) - self.force * weight * penalty / self.loss
        change = self.speed * math.tanh(force)
        change *= self.revival if change > 0 else 1.0
        self.terms = min(30_000.0, self.terms * math.exp(pace * change))

        def noisy(number, noise):
            return number * math.exp(self.random.gauss(0, noise))

        return noisy(self.terms, self.noise), noisy(penalty, 0.1), noisy(self.loss, 0.3)


def control(training, target, steps, pace=lambda step: 1.0):
    """The number of terms after each step: the simulation's own, not the measured one."""
    terms = []
    for step in range(steps):
        target.observe(*training.step(target.value(), pace(step)))
        target.step(pace(step))
        terms.append(training.terms)
    return terms


@pytest.mark.parametrize(
    ("terms", "settings"),
    [
        *((terms, {}) for terms in (30_000.0, 2.0)),
        *((terms, {"speed": 0.1}) for terms in (30_000.0, 2.0)),
        *((terms, {"speed": 0.005}) for terms in (30_000.0, 2.0)),
        (30_000.0, {"force": 1.0}),  # the penalty must be five times the ranking loss
        (30_000.0, {"force": 2000.0, "loss": 1000.0}),
        (30_000.0, {"revival": 0.1}),
        *((terms, {"noise": 0.3}) for terms in (30_000.0, 2.0)),
    ],
    ids=str,
)
def test_target_is_reached_within_10_percent_and_held(terms, settings):
    seen = control(Training(terms, **settings), Target(120, settle_steps=50), 3000)
    tail = seen[1500:]
    assert abs(sum(tail) / len(tail) / 120 - 1) < 0.05
    hundreds = [sum(tail[i : i + 100]) / 100 for i in range(0, len(tail), 100)]
    assert all(abs(mean / 120 - 1) < 0.1 for mean in hundreds)
    # On its way down it does not fall far below the target.
    assert min(seen[-2900:]) > 40 or terms < 100


def test_target_is_held_through_warm_up_and_decay():
    def pace(step):
        return min(1.0, step / 500) * (1 - step / 3000)

    seen = control(Training(30_000), Target(120, settle_steps=50), 3000, pace)
    assert all(abs(terms / 120 - 1) < 0.1 for terms in seen[1500:])
    assert min(seen) > 100


def test_target_does_not_wind_up_while_the_model_cannot_follow():
    """The terms stay at 30,000 whatever λ is; λ must grow, but only to a bound."""
    target = Target(120, settle_steps=50)
    for _ in range(1000):
        target.observe(30_000.0, 90_000.0, 1.0)
        target.step()
    # Without the bound, a thousand steps of 3/50 would make it e^60.
    assert 1 < target.value() * 90_000 < 1e4
    training = Training(30_000)
    seen = control(training, target, 2000)
    assert min(seen) > 60
    assert abs(sum(seen[-500:]) / 500 / 120 - 1) < 0.05


def test_target_does_not_wind_down_while_nothing_is_active():
    target = Target(120, settle_steps=50)
    for _ in range(1000):
        target.observe(1.0, 1e-4, 1.0)
        target.step()
    assert 1e-9 < target.value() * 1e-4 < 1e-3
    for _ in range(10):
        target.observe(0.0, 0.0, 1.0)
        target.step()
    assert math.isfinite(target.value())


def test_target_starts_by_what_it_measures():
    target = Target(120)
    target.step()
    assert target.value() == 0.0  # nothing was measured yet
    target.observe(math.nan, 1.0, 1.0)
    target.step()
    assert target.value() == 0.0
    target.observe(5000.0, 40.0, 2.0)
    target.step()
    assert target.value() == pytest.approx(0.003 * 2 / 40)
    sparse = Target(120)
    sparse.observe(5.0, 40.0, 2.0)
    sparse.step()
    assert sparse.value() == pytest.approx(0.001 * 2 / 40)


def test_target_by_hand():
    """Δ log λ = 1.5 (Δx / √pace + clip(3 x, ±1) / 100), x of the running mean (of 5 steps)."""
    target = Target(100, settle_steps=100)
    target.observe(200.0, 1.0, 10.0)
    target.step()
    target.observe(100.0, 1.0, 10.0)
    target.step(pace=0.25)
    # The mean of two is 150; at λ = 1 the penalty is 0.1 of the ranking loss, within bounds.
    change = math.log(Target.START / 0.1)
    change += 1.5 * ((math.log(1.5) - math.log(2)) / 0.5 + 1 / 100)
    assert target.value() == pytest.approx(math.exp(change))
    target.observe(180.0, 1.0, 10.0)
    target.step()
    target.observe(0.0, 1.0, 10.0)
    target.step(pace=0.0)  # counts as 0.1
    # Means of three and of four: 160 and 120.
    change += 1.5 * (math.log(1.6) - math.log(1.5) + 1 / 100)
    change += 1.5 * ((math.log(1.2) - math.log(1.6)) / math.sqrt(0.1) + 3 * math.log(1.2) / 100)
    assert target.value() == pytest.approx(math.exp(change))
    target.observe(4_999_520.0, 1.0, 10.0)
    target.step()
    # The mean of five is 1,000,000, far too much; if the penalty exceeds the ranking loss, the
    # step is divided by the root of their ratio.
    beyond = max(1.0, 0.1 * math.exp(change))
    change += 1.5 * (math.log(10_000) - math.log(1.2) + 1 / 100 / math.sqrt(beyond))
    assert target.value() == pytest.approx(math.exp(change))
    before = target.value()
    assert before * 0.1 > 3  # the ratio of penalty to ranking loss
    target.observe(1_000_000.0, 1.0, 10.0)
    target.step()
    assert target.value() / before == pytest.approx(math.exp(0.015 / math.sqrt(before * 0.1)))


def test_fewer_steps_to_settle_than_adam_lags_count_as_these():
    seen = [
        control(Training(30_000.0), Target(120, settle_steps=steps), 100) for steps in (3, 10, 11)
    ]
    assert seen[0] == seen[1] != seen[2]
    assert [Target(120, steps).ramp_steps for steps in (3, 10, 11)] == [100, 100, 110]


def test_noise_does_not_add_up():
    target = Target(120, settle_steps=50)
    generator = random.Random(0)
    values = []
    for _ in range(3000):
        target.observe(120 * math.exp(generator.gauss(-0.02, 0.2)), 1.0, 1.0)
        target.step()
        values.append(math.log(target.value()))
    assert abs(values[-1] - values[100]) < 1.5
    assert max(values[100:]) - min(values[100:]) < 3


@pytest.mark.parametrize("make", [lambda: Fixed(2.0, 50), lambda: Target(120, 50)])
def test_states_pass_through_json(make):
    whole, first, second = make(), make(), make()
    generator = random.Random(0)
    seen = [(generator.uniform(50, 500), generator.random(), 1.0) for _ in range(30)]

    def run(strength, observations):
        values = []
        for observation in observations:
            strength.observe(*observation)
            strength.step(0.7)
            values.append(strength.value())
        return values

    expected = run(whole, seen)
    values = run(first, seen[:13])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert values + run(second, seen[13:]) == expected
    fresh = make()
    fresh.load_state_dict(json.loads(json.dumps(make().state_dict())))
    assert run(fresh, seen) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fixed(-1.0), "`weight` must be finite and not negative, got -1.0"),
        (lambda: Fixed(math.nan), "`weight` must be finite and not negative, got nan"),
        (lambda: Fixed(1.0, -1), "`ramp_steps` must be at least 0, got -1"),
        (lambda: Target(0), "`terms` must be positive and finite, got 0"),
        (lambda: Target(120, 0), "`settle_steps` must be at least 1, got 0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
