package {{ package }}

import android.content.Context
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.media.ExifInterface
import android.net.Uri
import androidx.camera.core.ImageProxy
import java.io.IOException
import kotlin.math.max

private const val LONGEST_SIDE = 2048 // pixels of an opened photograph: enough for the network and the screen

/** The pixels of a bitmap. A bitmap in the memory of the GPU is copied first, since its pixels cannot be read there. */
fun photoOf(bitmap: Bitmap): Photo {
    val readable = if (bitmap.config == Bitmap.Config.ARGB_8888) bitmap else bitmap.copy(Bitmap.Config.ARGB_8888, false)
    val pixels = IntArray(readable.width * readable.height)
    readable.getPixels(pixels, 0, readable.width, 0, 0, readable.width, readable.height)
    return Photo(pixels, readable.width, readable.height)
}

/** A camera's image, turned as the user sees it. */
fun photoOf(image: ImageProxy): Photo = photoOf(image.toBitmap()).turned(image.imageInfo.rotationDegrees)

/** The bitmap of a photograph. */
fun bitmapOf(photo: Photo): Bitmap =
    Bitmap.createBitmap(photo.pixels, photo.width, photo.height, Bitmap.Config.ARGB_8888)

/** A photograph that the user has chosen, upright by its EXIF data; null if it cannot be read. */
fun photoOf(context: Context, uri: Uri): Photo? = try {
    decoded(context, uri)?.upright(orientation(context, uri))
} catch (error: IOException) { // such as a photograph in a cloud that cannot be reached
    null
} catch (error: SecurityException) { // the right to read it has ended
    null
}

private fun decoded(context: Context, uri: Uri): Photo? {
    val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
    context.contentResolver.openInputStream(uri)?.use { BitmapFactory.decodeStream(it, null, size) }
    var step = 1
    while (max(size.outWidth, size.outHeight) / step > LONGEST_SIDE) step *= 2
    val options = BitmapFactory.Options().apply { inSampleSize = step }
    val bitmap = context.contentResolver.openInputStream(uri)?.use { BitmapFactory.decodeStream(it, null, options) }
    return bitmap?.let { photoOf(it) }
}

/** The orientation in the EXIF data; "normal" where there are none that can be read. */
private fun orientation(context: Context, uri: Uri): Int = try {
    context.contentResolver.openInputStream(uri)?.use {
        ExifInterface(it).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
    } ?: ExifInterface.ORIENTATION_NORMAL
} catch (error: IOException) {
    ExifInterface.ORIENTATION_NORMAL
}
