r"""A GRU layer over a whole sequence, with its backward pass written out.

With the gate inputs `i_t = W_i x_t + b_i` and `g_t = W_h h_{t-1} + b_h`, each split into three parts (reset, update, new),

    r_t = sigmoid(i_t^r + g_t^r)      z_t = sigmoid(i_t^z + g_t^z)      n_t = tanh(i_t^n + r_t g_t^n)
    h_t = n_t + z_t (h_{t-1} - n_t)

(Cho et al. 2014, with the reset gate after the matrix product as in cuDNN and `torch.nn.GRU`, whose parameters are used
here.) What differs from `torch.nn.GRU` on a CPU is speed alone: autograd would record a dozen nodes for each step and add
up the weights' gradient step by step. Here only the recurrence itself is a loop, of one product and a few element-wise
operations; everything else is done once for all steps.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import FunctionCtx, once_differentiable


class _Recurrence(torch.autograd.Function):
    """Inputs `(B, T, I)`, initial state `(B, H)` and the four parameters of a `torch.nn.GRU` layer to states `(B, T, H)`.

    Steps write into views, made beforehand, of buffers that hold all steps: where a layer is small, a call costs more than
    its arithmetic, and so a step has six calls forward and three backward.
    """

    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # under autocast: a state keeps its precision
    def forward(
        ctx: FunctionCtx,
        inputs: Tensor,
        initial: Tensor,
        input_weight: Tensor,
        weight: Tensor,
        input_bias: Tensor,
        bias: Tensor,
    ) -> Tensor:
        (batch, length), size = inputs.shape[:2], initial.shape[-1]
        parts = (2 * size, size)  # reset and update gate, new state
        (gate_bias, new_bias), (gate_weight, new_weight) = bias.split(parts), weight.t().split(parts, dim=1)
        input_bias = input_bias + nn.functional.pad(gate_bias, (0, size))
        inputs = inputs.transpose(0, 1).contiguous()  # (T, B, I): each step's batch lies together
        sums = torch.addmm(input_bias, inputs.flatten(0, 1), input_weight.t()).unflatten(0, (length, batch))
        gates, news = sums.split(parts, dim=-1)  # each step turns its sums into gates and new state where they stand
        resets, updates = gates.chunk(2, dim=-1)
        products, states = sums.new_empty(length, batch, size), sums.new_empty(length + 1, batch, size)
        states[0] = initial
        steps = (gates, resets, updates, news, products, states[:-1], states[1:])
        for gate, reset, update, new, product, before, after in zip(*(step.unbind() for step in steps)):
            gate.addmm_(before, gate_weight).sigmoid_()
            torch.addmm(new_bias, before, new_weight, out=product)
            new.addcmul_(reset, product).tanh_()
            torch.lerp(new, before, update, out=after)
        ctx.save_for_backward(inputs, input_weight, weight, sums, products, states)
        return states[1:].transpose(0, 1)

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, input_weight, weight, sums, product, states = ctx.saved_tensors
        reset, update, new = sums.chunk(3, dim=-1)
        before, rest = states[:-1], 1 - update
        slope = rest * (1 - new.square())  # of h_t along the argument of tanh
        slopes = torch.stack(
            [slope * product * (reset - reset.square()), (before - new) * update * rest, slope * reset], dim=2
        )  # (T, B, 3, H): of h_t along g_t
        along_products = torch.empty_like(slopes)
        along_states = torch.cat([torch.zeros_like(states[:1]), gradient.transpose(0, 1)])  # first of the loss alone
        steps = (
            along_states[1:].unsqueeze(2), along_states[1:], along_states[:-1], along_products,
            along_products.flatten(2), slopes, update,
        )  # fmt: skip
        for column, after, earlier, product_t, flat_t, slope_t, kept in zip(*(step.unbind()[::-1] for step in steps)):
            torch.mul(column, slope_t, out=product_t)  # (B, 1, H), (B, 3, H) -> (B, 3, H)
            earlier.addmm_(flat_t, weight).addcmul_(after, kept)
        products = along_products.view(-1, len(weight))  # (T B, 3 H)
        direct = along_states[1:] * slope  # i_t^n is not multiplied by the reset gate, g_t^n is
        flat = torch.cat([products[:, : -weight.shape[1]], direct.flatten(0, 1)], dim=-1)
        along_inputs = None
        if ctx.needs_input_grad[0]:
            along_inputs = (flat @ input_weight).unflatten(0, inputs.shape[:2]).transpose(0, 1)
        return (
            along_inputs,
            along_states[0],
            flat.t() @ inputs.flatten(0, 1),
            products.t() @ before.flatten(0, 1),
            flat.sum(0),
            products.sum(0),
        )


class GRULayer(nn.GRU):
    """A one-layer GRU with `batch_first=True` that returns its outputs alone; its parameters are those of `torch.nn.GRU`.

    Args:
        input_size, hidden_size: As for `torch.nn.GRU`.
    """

    def __init__(self, input_size: int, hidden_size: int, **kwargs: Any) -> None:
        super().__init__(input_size, hidden_size, batch_first=True, **kwargs)

    @torch.compiler.disable  # the loop would be unrolled, and compiled anew for every length
    def forward(self, inputs: Tensor, initial: Tensor | None = None) -> Tensor:
        """The outputs `(batch, n, hidden)`; differentiable once on a CPU.

        Args:
            inputs: `(batch, n, input)`.
            initial: `(batch, hidden)`; `None`: zeros.
        """
        if initial is None:
            initial = inputs.new_zeros(inputs.shape[0], self.hidden_size)
        if inputs.is_cuda or torch.compiler.is_exporting():  # cuDNN has a kernel for it, and ONNX an operator
            return super().forward(inputs, initial.unsqueeze(0).contiguous())[0]
        return _Recurrence.apply(
            inputs, initial, self.weight_ih_l0, self.weight_hh_l0, self.bias_ih_l0, self.bias_hh_l0
        )
