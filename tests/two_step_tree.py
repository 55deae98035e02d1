"""All sequences of a tree of two tokens of three, and what is known of them exactly.

Row 0 of the arrays [4, 3] is the root's distribution, row 1 + a that after token a.
Costs and masks are [9, 2], one row per sequence. The oracles are numpy.
"""

import numpy as np
from textbook import log_softmax

FIRST, SECOND = np.divmod(np.arange(9), 3)
STATES, ACTIONS = np.stack([0 * FIRST, 1 + FIRST], -1), np.stack([FIRST, SECOND], -1)
FULL = np.ones((9, 2))
ENDED = np.where(STATES == 1, 0.0, FULL)  # token 0 at the root ends the sequence
_rng = np.random.default_rng(0)
LOGITS, REFERENCE = _rng.normal(size=(4, 3)), log_softmax(_rng.normal(size=(4, 3)))
POLICY = log_softmax(LOGITS)
OLD = log_softmax(LOGITS + 0.4 * _rng.normal(size=(4, 3)))


def visits(log_p, mask):
    """The probability [4] that a sequence of log_p comes to each state."""
    return np.concatenate([[1.0], np.exp(log_p[0]) * mask[::3, 1]])


def of_tokens(case, mask, at=None):
    """E sum_t D_f(pi(.|s_t) || ref); `at` holds the states where that policy goes."""

    def scalar(z):
        log_p = log_softmax(z)
        u = np.exp(log_p - REFERENCE)
        each = (np.exp(REFERENCE) * case.f(u)).sum(-1)
        return visits(log_p if at is None else at, mask) @ each

    return scalar


def of_sequences(case, mask):
    """D_f between the distributions over sequences."""

    def scalar(z):
        log_u = (log_softmax(z) - REFERENCE)[STATES, ACTIONS]
        prior = np.exp(REFERENCE[STATES, ACTIONS].sum(-1))
        return prior @ case.f(np.exp((mask * log_u).sum(-1)))

    return scalar


def reinforce(cost, mask):
    """E_pi[sum_t cost_t grad log pi(a_t | s_t)] in the logits, `cost` [9, 2]."""
    p, found = np.exp(POLICY), np.zeros((4, 3))
    probability = p[STATES, ACTIONS].prod(-1, keepdims=True)
    scores = np.eye(3)[ACTIONS] - p[STATES]
    np.add.at(found, STATES, (probability * mask * cost)[..., None] * scores)
    return found


def best_response(case, q, log_ref, beta):
    """(log pi*, value) [3], [] of max_pi E_pi[q] - beta D_f(pi || ref) at one state.

    q = beta f'(u) + lambda: u by bisection, and lambda by bisection on sum pi = 1.
    """

    def log_u(normaliser):
        low, high = np.full(3, -40.0), np.full(3, 40.0)
        for _ in range(60):
            mid = (low + high) / 2
            below = case.slope(np.exp(mid)) < (q - normaliser) / beta
            low, high = np.where(below, mid, low), np.where(below, high, mid)
        return mid

    low, high = -10.0, 10.0  # the mass falls in lambda
    for _ in range(60):
        mid = (low + high) / 2
        more = np.exp(log_ref + log_u(mid)).sum() > 1
        low, high = (mid, high) if more else (low, mid)
    d = log_u(mid)
    paid = beta * np.exp(log_ref) @ case.f(np.exp(d))
    return log_ref + d, np.exp(log_ref + d) @ q - paid


def optimum(case, rewards, mask, beta):
    """(log pi* [4, 3], V(root)) of E[R] - beta E sum_t D_f, by backward induction."""
    table = rewards.reshape(3, 3)
    last = [best_response(case, table[a], REFERENCE[1 + a], beta) for a in range(3)]
    goes_on = mask[::3, 1] > 0
    q = np.where(goes_on, [value for _, value in last], table[:, 0])
    root, value = best_response(case, q, REFERENCE[0], beta)
    return np.stack([root, *(log_p for log_p, _ in last)]), value


def naive(case, log_p, mask, beta):
    """beta sum_t f'(u_t) [9] of every sequence."""
    u = np.exp((log_p - REFERENCE)[STATES, ACTIONS])
    return beta * (mask * case.slope(u)).sum(-1)


def corrected(case, log_p, mask, beta):
    """The same minus c(s_t) = beta (E_pi[f'(u)] - D_f(pi || ref))."""
    u = np.exp(log_p - REFERENCE)
    excess = (np.exp(log_p) * case.slope(u) - np.exp(REFERENCE) * case.f(u)).sum(-1)
    return naive(case, log_p, mask, beta) - beta * (mask * excess[STATES]).sum(-1)
