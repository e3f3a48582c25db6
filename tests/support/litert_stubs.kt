// Signatures of com.google.ai.edge.litert:litert 2.3, from litert/kotlin/src/main/kotlin in google-ai-edge/LiteRT.
@file:Suppress("UNUSED_PARAMETER", "unused")

package com.google.ai.edge.litert

import android.content.Context
import android.content.res.AssetManager

enum class Accelerator { NONE, CPU, GPU, NPU }

class LiteRtException(message: String) : Exception(message)

abstract class JniHandle internal constructor() : AutoCloseable {
    final override fun close() = Unit
}

class TensorBuffer internal constructor() : JniHandle() {
    fun writeFloat(data: FloatArray) = Unit
    fun writeInt8(data: ByteArray) = Unit
    fun readFloat(): FloatArray = FloatArray(0)
    fun readInt8(): ByteArray = ByteArray(0)
}

interface NpuAcceleratorProvider {
    fun isDeviceSupported(): Boolean
    fun isLibraryReady(): Boolean
    suspend fun downloadLibrary()
    fun getLibraryDir(): String
}

class BuiltinNpuAcceleratorProvider(context: Context) : NpuAcceleratorProvider {
    override fun isDeviceSupported() = false
    override fun isLibraryReady() = true
    override suspend fun downloadLibrary() = Unit
    override fun getLibraryDir() = ""
}

class Environment private constructor() : JniHandle() {
    enum class Option { CompilerPluginLibraryDir, DispatchLibraryDir }

    companion object {
        fun create(context: Context, options: Map<Option, String> = mapOf(), enableCompilerCache: Boolean = true) = Environment()
        fun create(options: Map<Option, String> = mapOf()) = Environment()
        fun create(
            context: Context, npuAcceleratorProvider: NpuAcceleratorProvider, options: Map<Option, String> = mapOf(),
            enableCompilerCache: Boolean = true
        ) = Environment()
    }
}

class CompiledModel private constructor() : JniHandle() {
    class Options(vararg accelerators: Accelerator)

    fun createInputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = listOf()
    fun createOutputBuffers(signatureIndex: Int = 0): List<TensorBuffer> = listOf()
    fun run(inputs: List<TensorBuffer>, outputs: List<TensorBuffer>, signatureIndex: Int = 0) = Unit

    companion object {
        fun create(
            assetManager: AssetManager, assetName: String, options: Options = Options(Accelerator.CPU),
            optionalEnv: Environment? = null
        ) = CompiledModel()
    }
}
