package {{ package }}

import android.Manifest
import android.content.pm.PackageManager
import android.os.Bundle
import android.os.SystemClock
import android.util.Log
import android.view.Gravity
import android.view.View
import android.widget.Button
import android.widget.FrameLayout
import android.widget.ImageView
import android.widget.TextView
import androidx.activity.ComponentActivity
import androidx.activity.result.contract.ActivityResultContracts
import androidx.camera.core.CameraSelector
import androidx.camera.core.ImageAnalysis
import androidx.camera.core.Preview
import androidx.camera.core.UseCase
import androidx.camera.core.resolutionselector.AspectRatioStrategy
import androidx.camera.core.resolutionselector.ResolutionSelector
import androidx.camera.lifecycle.ProcessCameraProvider
import androidx.camera.view.PreviewView
import androidx.core.content.ContextCompat
import com.google.ai.edge.litert.LiteRtException
{% if form == "raw" %}
import org.json.JSONObject
{% endif %}
import java.util.concurrent.ExecutionException
import java.util.concurrent.Executors

/** Shows the camera's picture, or a photograph, and what the network sees in it. */
class MainActivity : ComponentActivity() {
    // The network is made, used and closed on this thread alone.
    private val worker = Executors.newSingleThreadExecutor()
    private var network: Network? = null
    private lateinit var answers: Answers

    private lateinit var preview: PreviewView
    private lateinit var picture: ImageView
    private lateinit var overlay: Overlay
    private lateinit var status: TextView
    private lateinit var button: Button
    private var camera: ProcessCameraProvider? = null
    private var uses: List<UseCase> = emptyList() // of the camera, by this activity
    private var isCameraShown = true

    private val askForCamera = registerForActivityResult(ActivityResultContracts.RequestPermission()) { granted ->
        if (granted) startCamera() else status.setText(R.string.no_permission)
    }
    private val choosePhotograph = registerForActivityResult(ActivityResultContracts.GetContent()) { uri ->
        if (uri != null) {
            stopCamera()
            worker.execute {
                val photo = photoOf(this, uri)
                if (photo == null) runOnUiThread { status.setText(R.string.not_read) } else look(photo, isCamera = false)
            }
        }
    }

    override fun onCreate(state: Bundle?) {
        super.onCreate(state)
        preview = PreviewView(this).apply { scaleType = PreviewView.ScaleType.FIT_CENTER }
        picture = ImageView(this).apply { visibility = View.GONE } // its scale type is FIT_CENTER, too
        overlay = Overlay(this)
        status = TextView(this).apply { setText(R.string.loading) }
        button = Button(this).apply { setText(R.string.open_photograph) }
        button.setOnClickListener {
            if (isCameraShown) choosePhotograph.launch("image/*") else backToCamera()
        }
        val all = FrameLayout.LayoutParams.MATCH_PARENT
        val own = FrameLayout.LayoutParams.WRAP_CONTENT
        setContentView(FrameLayout(this).apply {
            fitsSystemWindows = true
            for (view in listOf(preview, picture, overlay)) addView(view, FrameLayout.LayoutParams(all, all))
            addView(status, FrameLayout.LayoutParams(all, own, Gravity.BOTTOM or Gravity.START))
            addView(button, FrameLayout.LayoutParams(own, own, Gravity.BOTTOM or Gravity.END))
        })
        worker.execute(::load)
        backToCamera()
    }

    override fun onDestroy() {
        super.onDestroy()
        camera?.unbind(*uses.toTypedArray()) // of this activity alone: the provider is that of the whole app
        worker.execute { network?.close() }
        worker.shutdown()
    }

    private fun load() {
{% if labels %}
        val labels = assets.open("labels.txt").bufferedReader().use { it.readLines() }
{% else %}
        val labels = List({{ classes }}) { "class $it" }
{% endif %}
{% if form == "raw" %}
        val rows = JSONObject(assets.open({{ anchors|kotlin_text }}).bufferedReader().use { it.readText() }).getJSONArray("rows")
        answers = Answers(labels, List(rows.length()) { row -> FloatArray(4) { rows.getJSONArray(row).getDouble(it).toFloat() } })
{% else %}
        answers = Answers(labels)
{% endif %}
{% if task == "segment" %}
        overlay.labels = labels
{% endif %}
        try {
            network = Network(this)
        } catch (error: LiteRtException) {
            failed(error)
        }
    }

    /** Runs the network on a photograph and shows the answers; on the worker's thread. */
    private fun look(photo: Photo, isCamera: Boolean) {
        val network = network ?: return // it could not be loaded, and the status says so
        val started = SystemClock.elapsedRealtimeNanos()
        val input = Input.of(photo)
        val prepared = SystemClock.elapsedRealtimeNanos()
        val outputs = try {
            network.run(input)
        } catch (error: LiteRtException) {
            this.network = null
            return failed(error)
        }
        val ended = SystemClock.elapsedRealtimeNanos()
        val part = Input.part(photo.width, photo.height)
        val seen = answers.of(outputs, part)
        val times = "%s: %.1f ms, preprocessing %.1f ms".format(
            network.accelerator, (ended - prepared) / 1e6, (prepared - started) / 1e6
        )
        val bitmap = if (isCamera) null else bitmapOf(photo)
        runOnUiThread {
            if (isCamera == isCameraShown) { // else the user has changed to the other since
                if (bitmap != null) picture.setImageBitmap(bitmap)
                overlay.show(seen, part, photo.width, photo.height)
                status.text = times
            }
        }
    }

    private fun failed(error: LiteRtException) {
        Log.e(Network.TAG, "The network does not run", error)
        runOnUiThread { status.setText(R.string.not_run) }
    }

    private fun backToCamera() {
        show(camera = true)
        if (ContextCompat.checkSelfPermission(this, Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED) {
            startCamera()
        } else {
            askForCamera.launch(Manifest.permission.CAMERA)
        }
    }

    private fun startCamera() {
        val future = ProcessCameraProvider.getInstance(this)
        future.addListener(Runnable {
            if (!isCameraShown || camera != null) return@Runnable // a photograph was opened meanwhile
            try {
                bind(future.get())
            } catch (error: ExecutionException) { // CameraX could not start
                noCamera(error)
            } catch (error: IllegalArgumentException) { // there is no such camera
                noCamera(error)
            }
        }, ContextCompat.getMainExecutor(this))
    }

    private fun bind(provider: ProcessCameraProvider) {
        // Preview and analysis see the same part of the scene, so that the overlay fits.
        val shape = ResolutionSelector.Builder()
            .setAspectRatioStrategy(AspectRatioStrategy.RATIO_4_3_FALLBACK_AUTO_STRATEGY)
            .build()
        val view = Preview.Builder().setResolutionSelector(shape).build()
        view.setSurfaceProvider(preview.surfaceProvider)
        val analysis = ImageAnalysis.Builder()
            .setResolutionSelector(shape)
            .setBackpressureStrategy(ImageAnalysis.STRATEGY_KEEP_ONLY_LATEST)
            .setOutputImageFormat(ImageAnalysis.OUTPUT_IMAGE_FORMAT_RGBA_8888)
            .build()
        analysis.setAnalyzer(worker, ImageAnalysis.Analyzer { image ->
            val photo = try {
                photoOf(image)
            } finally {
                image.close() // only then does the camera give the next image
            }
            look(photo, isCamera = true)
        })
        uses = listOf(view, analysis)
        provider.bindToLifecycle(this, CameraSelector.DEFAULT_BACK_CAMERA, view, analysis)
        camera = provider
    }

    private fun noCamera(error: Exception) {
        Log.w(Network.TAG, "No camera", error)
        status.setText(R.string.no_camera)
    }

    private fun stopCamera() {
        camera?.unbind(*uses.toTypedArray())
        camera = null
        show(camera = false)
    }

    private fun show(camera: Boolean) {
        isCameraShown = camera
        overlay.clear()
        preview.visibility = if (camera) View.VISIBLE else View.GONE
        picture.visibility = if (camera) View.GONE else View.VISIBLE
        button.setText(if (camera) R.string.open_photograph else R.string.back_to_camera)
    }
}
