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
from torch.autograd.function import FunctionCtx, once_differentiable


class _Recurrence(torch.autograd.Function):
    """Gate inputs `(T, B, 3 H)`, initial state `(B, H)`, recurrent weight `(3 H, H)` and bias to states `(T, B, H)`."""

    @staticmethod
    def forward(ctx: FunctionCtx, gate_inputs: Tensor, initial: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        size = initial.shape[-1]
        states = gate_inputs.new_empty(len(gate_inputs) + 1, *initial.shape)
        states[0] = initial
        gates, news, products = [], [], []
        transposed = weight.t()
        state = initial
        inputs = zip(gate_inputs[..., : 2 * size].unbind(), gate_inputs[..., 2 * size :].unbind(), states[1:].unbind())
        for gate_input, new_input, next_state in inputs:
            recurrent = torch.addmm(bias, state, transposed)  # (B, 3 H)
            gate = torch.add(gate_input, recurrent[:, : 2 * size]).sigmoid_()
            product = recurrent[:, 2 * size :]
            new = torch.addcmul(new_input, gate[:, :size], product).tanh_()
            state = torch.lerp(new, state, gate[:, size:], out=next_state)
            gates.append(gate)
            news.append(new)
            products.append(product)
        ctx.save_for_backward(states, torch.stack(gates), torch.stack(news), torch.stack(products), weight)
        return states[1:].clone()  # a view of a saved tensor must not leave, somebody might change it

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        states, gates, new, product, weight = ctx.saved_tensors
        reset, update = gates.chunk(2, dim=-1)
        before = states[:-1]
        slope = (1 - update) * (1 - new.square())  # of h_t along the argument of tanh
        slopes = torch.stack(
            [slope * product * reset * (1 - reset), (before - new) * update * (1 - update), slope * reset], dim=2
        )  # (T, B, 3, H): of h_t along g_t
        recurrent_gradients, state_gradients = torch.empty_like(slopes), torch.empty_like(before)
        total = torch.zeros_like(before[0])
        steps = zip(
            gradient.unbind(), slopes.unbind(), update.unbind(), recurrent_gradients.unbind(), state_gradients.unbind()
        )
        for own, along, kept, recurrent_gradient, state_gradient in reversed(list(steps)):
            torch.add(total, own, out=state_gradient)
            torch.mul(state_gradient.unsqueeze(1), along, out=recurrent_gradient)
            total = torch.addmm(state_gradient * kept, recurrent_gradient.flatten(1), weight)
        input_gradients = recurrent_gradients.clone()
        torch.mul(state_gradients, slope, out=input_gradients[:, :, 2])
        flat = recurrent_gradients.flatten(2).flatten(0, 1)  # (T B, 3 H)
        return input_gradients.flatten(2), total, flat.t() @ before.flatten(0, 1), flat.sum(0)


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
    # (B, n, input) -> (n, B, input): each step's batch lies together
    gate_inputs = nn.functional.linear(inputs.transpose(0, 1), layer.weight_ih_l0, layer.bias_ih_l0)
    return _Recurrence.apply(gate_inputs, initial, layer.weight_hh_l0, layer.bias_hh_l0).transpose(0, 1)
