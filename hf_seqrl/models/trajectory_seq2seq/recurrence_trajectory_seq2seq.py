r"""A GRU layer over a whole sequence, with its backward pass written out.

With the gate inputs `i_t = W_i x_t + b_i` and `g_t = W_h h_{t-1} + b_h`, each split into three parts (reset, update, new),

    r_t = sigmoid(i_t^r + g_t^r)      z_t = sigmoid(i_t^z + g_t^z)      n_t = tanh(i_t^n + r_t g_t^n)
    h_t = n_t + z_t (h_{t-1} - n_t)

(Cho et al. 2014, with the reset gate after the matrix product as in cuDNN and `torch.nn.GRU`, whose parameters are used
here.) What differs from `torch.nn.GRU` on a CPU is speed alone: autograd would record a dozen nodes for each step and add
up the weights' gradient step by step. Here only the recurrence itself is a loop, of one product and a few element-wise
operations; everything else is done once for all steps.
"""

import torch
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import FunctionCtx, once_differentiable


class _Recurrence(torch.autograd.Function):
    """Inputs `(B, T, I)`, initial state `(B, H)` and the four parameters of a `torch.nn.GRU` layer to states `(B, T, H)`."""

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
        size = initial.shape[-1]
        parts = (2 * size, size)  # reset and update gate, new state
        inputs = inputs.transpose(0, 1).contiguous()  # (T, B, I): each step's batch lies together
        gate_inputs = torch.addmm(input_bias, inputs.flatten(0, 1), input_weight.t()).unflatten(0, inputs.shape[:2])
        transposed = weight.t()
        states, gates, news, products = [initial], [], [], []
        for gate_input in gate_inputs.unbind():
            gate_part, new_part = gate_input.split(parts, dim=-1)
            gate_product, product = torch.addmm(bias, states[-1], transposed).split(parts, dim=-1)  # (B, 2 H), (B, H)
            gate = torch.add(gate_part, gate_product).sigmoid_()
            reset, update = gate.chunk(2, dim=-1)
            new = torch.addcmul(new_part, reset, product).tanh_()
            states.append(torch.lerp(new, states[-1], update))
            gates.append(gate)
            news.append(new)
            products.append(product)
        saved = torch.stack(states), torch.stack(gates), torch.stack(news), torch.stack(products)
        ctx.save_for_backward(inputs, input_weight, weight, *saved)
        return torch.stack(states[1:], dim=1)

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, input_weight, weight, states, gates, new, product = ctx.saved_tensors
        reset, update = gates.chunk(2, dim=-1)
        before = states[:-1]
        slope = (1 - update) * (1 - new.square())  # of h_t along the argument of tanh
        slopes = torch.stack(
            [slope * product * reset * (1 - reset), (before - new) * update * (1 - update), slope * reset], dim=2
        )  # (T, B, 3, H): of h_t along g_t
        total = torch.zeros_like(states[0])
        along_products, along_states = [], []
        for own, along, kept in zip(
            reversed(gradient.unbind(1)), reversed(slopes.unbind()), reversed(update.unbind())
        ):
            total = total + own
            along_products.append((total.unsqueeze(1) * along).flatten(1))  # (B, 3 H)
            along_states.append(total)
            total = torch.addmm(total * kept, along_products[-1], weight)
        products = torch.stack(along_products[::-1]).flatten(0, 1)  # (T B, 3 H)
        direct = torch.stack(along_states[::-1]) * slope  # i_t^n is not multiplied by the reset gate, g_t^n is
        flat = torch.cat([products[:, : -weight.shape[1]], direct.flatten(0, 1)], dim=-1)
        along_inputs = None
        if ctx.needs_input_grad[0]:
            along_inputs = (flat @ input_weight).unflatten(0, inputs.shape[:2]).transpose(0, 1)
        return (
            along_inputs,
            total,
            flat.t() @ inputs.flatten(0, 1),
            products.t() @ before.flatten(0, 1),
            flat.sum(0),
            products.sum(0),
        )


def run_gru(layer: nn.GRU, inputs: Tensor, initial: Tensor | None = None) -> Tensor:
    """The outputs of a one-layer GRU with `batch_first=True`.

    Args:
        layer: Whose parameters are used. On a GPU it is called itself, since cuDNN has a kernel for it.
        inputs: `(batch, n, input)`.
        initial: `(batch, hidden)`; `None`: zeros.

    Returns:
        `(batch, n, hidden)`, equal to `layer(inputs, initial)`; differentiable once.
    """
    if initial is None:
        initial = inputs.new_zeros(inputs.shape[0], layer.hidden_size)
    if inputs.is_cuda:
        return layer(inputs, initial.unsqueeze(0).contiguous())[0]
    return _Recurrence.apply(
        inputs, initial, layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
    )
