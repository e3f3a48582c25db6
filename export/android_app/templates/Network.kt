package {{ package }}

import android.content.Context
import android.util.Log
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.BuiltinNpuAcceleratorProvider
import com.google.ai.edge.litert.CompiledModel
import com.google.ai.edge.litert.Environment
import com.google.ai.edge.litert.LiteRtException
import com.google.ai.edge.litert.TensorBuffer

/**
 * The network, on the first of {{ "NPU and CPU" if on_gpu else "NPU, GPU and CPU" }} that takes all of the network. Make, use and close a Network on one
 * thread, because a GPU's context belongs to its thread.
 *
 * Throws LiteRtException where no processor runs the network.
 */
class Network(private val context: Context) : AutoCloseable {
{% if on_gpu %}
    // Without the GPU: the file computes in integers, and a GPU in floating point, no faster and with other scores.
    private val left = mutableListOf(Accelerator.NPU, Accelerator.CPU)
{% else %}
    private val left = mutableListOf(Accelerator.NPU, Accelerator.GPU, Accelerator.CPU)
{% endif %}
    private var session = opened()

    /** The processor that runs the network. */
    val accelerator: Accelerator get() = session.accelerator

    /** The real values of each output. input: as `Input.of` gives it. On an error, the next processor takes over. */
    fun run(input: {{ array }}): List<FloatArray> {
        while (true) {
            try {
                return session.run(input)
            } catch (error: LiteRtException) {
                if (left.isEmpty()) throw error
                Log.w(TAG, "${session.accelerator} failed", error)
                session.close()
                session = opened()
            }
        }
    }

    override fun close() = session.close()

    private fun opened(): Session {
        while (true) {
            val accelerator = left.removeAt(0)
            try {
                return Session(context, accelerator).also { Log.i(TAG, "{{ file|inside_text }} runs on $accelerator") }
            } catch (error: LiteRtException) {
                if (left.isEmpty()) throw error
                Log.w(TAG, "$accelerator does not take {{ file|inside_text }}: ${error.message}")
            }
        }
    }

    private class Session(context: Context, val accelerator: Accelerator) : AutoCloseable {
        private val opened = mutableListOf<AutoCloseable>() // closed in the opposite order
        private val model: CompiledModel
        private val inputs: List<TensorBuffer>
        private val outputs: List<TensorBuffer>

        init {
            try {
                val environment = environment(context).also { opened += it }
                val options = CompiledModel.Options(accelerator)
{% if packed %}
                val file = if (accelerator == Accelerator.NPU) forNpu(context) else "{{ file|inside_text }}"
                model = CompiledModel.create(context.assets, file, options, environment).also { opened += it }
{% else %}
                model = CompiledModel.create(context.assets, "{{ file|inside_text }}", options, environment).also { opened += it }
{% endif %}
                inputs = model.createInputBuffers().also { opened += it }
                outputs = model.createOutputBuffers().also { opened += it }
            } catch (error: LiteRtException) {
                close()
                throw error
            }
        }

        fun run(input: {{ array }}): List<FloatArray> {
            inputs[0].{{ "writeFloat" if input.dtype == "float32" else "writeInt8" }}(input)
            model.run(inputs, outputs)
            return listOf(
{% for output in outputs %}
{% if output.dtype == "float32" %}
                outputs[{{ loop.index0 }}].readFloat(){{ "," if not loop.last }}
{% else %}
                real(outputs[{{ loop.index0 }}].readInt8(), {{ (output.scale or 1.0)|kotlin }}, {{ output.zero_point }}, signed = {{ "true" if output.dtype == "int8" else "false" }}){{ "," if not loop.last }}
{% endif %}
{% endfor %}
            )
        }

{% if packed %}
        /** The file that was compiled for this phone's chip, where Google Play has delivered one: only an NPU runs it. */
        private fun forNpu(context: Context): String {
            val delivered = context.assets.list("model") ?: emptyArray()
            return if ("model.tflite" in delivered) "model/model.tflite" else "{{ file|inside_text }}"
        }

{% endif %}
        override fun close() = opened.asReversed().forEach { it.close() }

        /** NPUs need the vendor's libraries in the app; without these, or on another chip, LiteRT refuses NPU. */
        private fun environment(context: Context): Environment {
            val provider = BuiltinNpuAcceleratorProvider(context)
            val usable = accelerator == Accelerator.NPU && provider.isDeviceSupported() && provider.isLibraryReady()
            return if (usable) Environment.create(context, provider) else Environment.create()
        }
    }

    companion object {
        const val TAG = "Network"
    }
}
